package nodes

import (
	"testing"

	"millrace/internal/configtest"
)

func TestDefaultsFillInOnceAndOffStaysOff(t *testing.T) {
	configtest.Defaults(t, Config.withDefaults)
}
