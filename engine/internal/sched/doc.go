// Package sched is a pool of workers. They run functions, and tasks, which are queued again and
// again and contain their own list link, so that queueing one does not allocate:
//
//	type job struct {
//		task sched.Task
//		...
//	}
//	j.task.Init(j) // once; j is a sched.Owner
//	pool.Push(&j.task, j.task.Home())
//
// A monitor, one goroutine for each pool, checks the workers while there is work: it starts spare
// workers for those that are blocked, calls Owner.Long for turns that last long, and passes
// callbacks that exceed Config.StallAfter to a Watch, which reports them.
package sched
