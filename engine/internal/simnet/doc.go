// Package simnet is a network in memory, in which somebody else says what happens next: how
// many bytes arrive and how many the kernel takes, whose turn it is, when a FIN or a reset
// comes. It is the second implementation of netio; gnetio is the first.
//
// It starts no goroutine and looks at no socket. Its clock is the time package's, so that
// it follows that of a synctest bubble. Whoever drives a Net does so in rounds:
//
//	n.Settle()                       // what is due arrives
//	steps := n.Steps(nil)            // what could happen now
//	n.Do(steps[choose(len(steps))])  // on the goroutine of that step's loop
//
// and when there is nothing to do waits until Next, or Hooks.Wake. Steps of one loop are done
// one at a time. What TCP promises holds: bytes arrive once and in order, behind a FIN
// nothing comes, a reset destroys what its receiver has not read, and a receiver that does
// not read stops its sender.
package simnet
