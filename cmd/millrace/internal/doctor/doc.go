// Package doctor looks at a Linux machine for what a server needs of it, and says what to
// change. It only reads: files below /proc and /sys.
//
// One function is one check. What can't be read, as in many containers, is Unknown and no
// fault.
package doctor
