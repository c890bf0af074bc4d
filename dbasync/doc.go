// Package dbasync runs SQL over a few shared, pipelined PostgreSQL connections and
// hands each result to someone else's goroutines.
package dbasync
