package services

import "millrace/services/serial"

var _ serial.Serializer

type DurableEvents struct{ run func() }

func (c *Controller) fireDurable() {}
