// Package sched is a pool of workers. They run tasks, which are queued over and over and
// carry their own link, and plain functions. It knows nothing of what a task is for:
//
//	type job struct {
//		task sched.Task
//		...
//	}
//	j.task.Init(j) // once; j is a sched.Owner
//	pool.Push(&j.task)
//
// A monitor, one goroutine for each pool, looks at the workers while there is work: it
// starts spare ones for those that are blocked, tells a task's owner that its turn is a
// long one, and has a Watch report callbacks that stand still.
package sched
