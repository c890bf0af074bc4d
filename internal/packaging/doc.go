// Package packaging has only tests, which check the files for running, building and installing: run.sh,
// test.sh, the Makefile's install and release, the Dockerfile and the systemd unit.
package packaging
