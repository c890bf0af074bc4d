package services

import (
	"testing"

	"millrace/internal/configtest"
)

func TestDefaultsFillInOnceAndOffStaysOff(t *testing.T) {
	configtest.Defaults(t, Config.withDefaults)
	configtest.Defaults(t, ControllerConfig.withDefaults)
	configtest.Defaults(t, MemoryConfig.withDefaults)
}
