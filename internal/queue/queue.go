// Package queue hands shards of a plan to workers on any number of machines, as
// jobs of River (riverqueue.com) in the same PostgreSQL database as the
// inventory, so that a job is inserted and completed in the transaction that it
// belongs to.
//
// A job is a hint and no more: who works on a shard is said by its claim in the
// inventory, and a job too many does nothing. River's tables (river_*) hold
// nothing that could not be queued again, and are no part of a backup.
package queue

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
	"github.com/riverqueue/river/rivertype"
)

// Job is one shard of a plan to work on. There is one job with the same values
// at a time.
type Job struct {
	Plan  string `json:"plan"`
	Shard int64  `json:"shard"`
	Epoch int64  `json:"epoch"` // of the shard's last claim when it was queued
	Round int64  `json:"round"` // tells a job from an earlier one that was lost; 0: the first
	Ahead bool   `json:"ahead"` // goes before those that are not
}

// Kind implements river.JobArgs.
func (Job) Kind() string { return "resign_shard" }

// Attempts is how often River gives a job to a worker that returns errors, with
// more and more time between.
const Attempts = 20

// jobTimeout bounds the work on one shard; what is left is queued again. River
// gives a job that it has heard nothing of for an hour longer to another worker.
// A dead worker is noticed much earlier, by the lease of its claim.
const jobTimeout = time.Hour

// ErrAgain is returned by a worker that gave the shard back: it is queued at once
// again.
var ErrAgain = errors.New("the shard was given back")

// lockMigrations makes migrations of several processes serial. The number is
// "river" in the namespace of reseal's own lock.
const lockMigrations = 125779768702317

// Migrate makes or updates River's tables in a PostgreSQL database.
func Migrate(ctx context.Context, location string, log *slog.Logger) (err error) {
	pool, err := connect(ctx, location)
	if err != nil {
		return err
	}
	defer pool.Close()
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return failed("the queue's tables", err)
	}
	defer conn.Release()
	if _, err := conn.Exec(ctx, `SELECT pg_advisory_lock($1)`, lockMigrations); err != nil {
		return failed("the queue's tables", err)
	}
	defer func() {
		_, unlockErr := conn.Exec(context.WithoutCancel(ctx), `SELECT pg_advisory_unlock($1)`, lockMigrations)
		err = errors.Join(err, unlockErr)
	}()
	m, err := rivermigrate.New(riverpgxv5.New(pool), &rivermigrate.Config{Logger: log})
	if err != nil {
		return failed("the queue's tables", err)
	}
	_, err = m.Migrate(ctx, rivermigrate.DirectionUp, nil)
	return failed("the queue's tables", err)
}

func connect(ctx context.Context, location string) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(location)
	if err != nil {
		// The error may quote the URL, and with it the password.
		return nil, errors.New("the location of the database cannot be read: write it as postgres://USER@HOST:PORT/DATABASE, its password in PGPASSWORD or ~/.pgpass")
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	return pool, failed("connecting", err)
}

func failed(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("queue: %s: %w", what, err)
}

// Insert queues jobs under a name, in a transaction, and returns how many: those
// that are queued already are left out. River's tables must be there.
func Insert(ctx context.Context, tx pgx.Tx, name string, jobs []Job, log *slog.Logger) (int64, error) {
	client, err := river.NewClient(riverpgxv5.New(nil), &river.Config{Logger: log})
	if err != nil {
		return 0, failed("inserting", err)
	}
	params := make([]river.InsertManyParams, len(jobs))
	for i, j := range jobs {
		o := &river.InsertOpts{Queue: name, MaxAttempts: Attempts, Priority: 2, UniqueOpts: river.UniqueOpts{ByArgs: true, ByState: []rivertype.JobState{
			rivertype.JobStateAvailable, rivertype.JobStatePending, rivertype.JobStateRetryable, rivertype.JobStateRunning, rivertype.JobStateScheduled}}}
		if j.Ahead {
			o.Priority = 1
		}
		params[i] = river.InsertManyParams{Args: j, InsertOpts: o}
	}
	var inserted int64
	for len(params) > 0 {
		some := params[:min(len(params), 1000)]
		params = params[len(some):]
		results, err := client.InsertManyTx(ctx, tx, some)
		if err != nil {
			return 0, failed("inserting", err)
		}
		for _, r := range results {
			if !r.UniqueSkippedAsDuplicate {
				inserted++
			}
		}
	}
	return inserted, nil
}

// Options say what a worker works on.
type Options struct {
	Location string // of the PostgreSQL database
	Name     string // of the queue
	AtOnce   int    // jobs
	Log      *slog.Logger
	Grace    time.Duration // how long work may take to end once it is asked to

	// Work works on a job. complete marks it completed in a transaction; without
	// it, a job is completed when Work returns nil. With ErrAgain it is queued
	// again, and with any other error after a pause.
	Work func(ctx context.Context, j Job, complete func(context.Context, pgx.Tx) error) error
}

// ErrStopped is returned by Run when work was cut off.
var ErrStopped = errors.New("work was cut off: other workers, or this one when it is started again, go on from there")

// Run works on jobs until drain is closed, and then returns when the work in
// hand is over. When ctx ends, or the work takes longer than the grace, its
// context is cancelled.
func Run(ctx context.Context, drain <-chan struct{}, o Options) error {
	pool, err := connect(ctx, o.Location)
	if err != nil {
		return err
	}
	defer pool.Close()
	workers := river.NewWorkers()
	if err := river.AddWorkerSafely(workers, &worker{work: o.Work}); err != nil {
		return failed("starting", err)
	}
	client, err := river.NewClient(riverpgxv5.New(pool), &river.Config{
		Logger: o.Log, Workers: workers, Queues: map[string]river.QueueConfig{o.Name: {MaxWorkers: o.AtOnce}},
		FetchPollInterval: 500 * time.Millisecond, JobTimeout: jobTimeout, RescueStuckJobsAfter: 2 * jobTimeout, RetryPolicy: backOff{},
	})
	if err != nil {
		return failed("starting", err)
	}
	if err := client.Start(context.WithoutCancel(ctx)); err != nil {
		return failed("starting", err)
	}
	select {
	case <-drain:
	case <-ctx.Done():
	}
	soft, cancel := context.WithTimeout(ctx, o.Grace)
	defer cancel()
	if err := client.Stop(soft); err == nil {
		return nil
	}
	hard, cancel := context.WithTimeout(context.WithoutCancel(ctx), hardStop)
	defer cancel()
	return errors.Join(ErrStopped, failed("stopping", client.StopAndCancel(hard)))
}

// hardStop is how long work may take to end when its context is cancelled.
const hardStop = 20 * time.Second

// MaxPause is the longest time between two attempts at a job.
const MaxPause = 5 * time.Minute

// backOff doubles the pause after every attempt, from a second to MaxPause.
type backOff struct{}

// NextRetry implements river.ClientRetryPolicy.
func (backOff) NextRetry(job *rivertype.JobRow) time.Time {
	pause := MaxPause
	if job.Attempt < 9 {
		pause = min(pause, time.Second<<max(job.Attempt-1, 0))
	}
	return time.Now().Add(pause - rand.N(pause/4))
}

type worker struct {
	river.WorkerDefaults[Job]
	work func(context.Context, Job, func(context.Context, pgx.Tx) error) error
}

// Work implements river.Worker.
func (w *worker) Work(ctx context.Context, job *river.Job[Job]) error {
	err := w.work(ctx, job.Args, func(ctx context.Context, tx pgx.Tx) error {
		_, err := river.JobCompleteTx[*riverpgxv5.Driver](ctx, tx, job)
		return failed("completing", err)
	})
	if errors.Is(err, ErrAgain) {
		return river.JobSnooze(0)
	}
	return err
}
