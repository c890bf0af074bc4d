package benchcmd
type Tune struct{}
func (*Tune) Run(s *Streams) error { return nil }
