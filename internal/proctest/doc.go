// Package proctest runs a test binary again in other processes of a test, which can be suspended
// and killed, and runs it with a bug inserted into its package.
//
//	func init() { proctest.Role("node", runNode) }
//
//	func TestMain(m *testing.M) {
//		if proctest.Play() { // in such a process: the role has ended
//			return
//		}
//		os.Exit(m.Run())
//	}
//
//	p := proctest.Start(t, "node", "NODE_NAME=a")
//	line, err := p.Out.ReadString('\n')
package proctest
