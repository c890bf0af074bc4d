// Package packaging holds no code: its tests hold the files around the code to what they
// promise, such as test.sh, the Makefile's install and release, the Dockerfile and the unit
// of systemd.
package packaging
