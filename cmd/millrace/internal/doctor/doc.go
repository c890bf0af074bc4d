// Package doctor checks whether a Linux machine is fit for a server, and says what to change. It
// only reads files below /proc and /sys.
//
// One function is one check. If something can't be read, as in many containers, the result is
// Unknown and not a fault.
package doctor
