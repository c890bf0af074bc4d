package serial

import (
	"testing"

	"millrace/internal/configtest"
)

func TestDefaultsFillInOnceAndOffStaysOff(t *testing.T) {
	configtest.Defaults(t, Limits.withDefaults)
}
