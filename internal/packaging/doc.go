// Package packaging has only tests, which check the files for building and installing: test.sh, the
// Makefile's install and release, the Dockerfile and the systemd unit.
package packaging
