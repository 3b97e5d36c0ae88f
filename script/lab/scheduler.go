package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"time"
)

// Scheduler is a dfscheduler.
type Scheduler struct {
	*Process
	Addr  string // where hosts reach it
	Debug string // host:port of metrics and views, on its host

	at     *Host
	flags  []string
	config string
}

// Scheduler starts a dfscheduler on a host. more is added to its configuration,
// flags to its arguments.
func (h *Host) Scheduler(ctx context.Context, more string, flags ...string) (*Scheduler, error) {
	debug, err := h.debugAddr("65005")
	if err != nil {
		return nil, err
	}
	s := &Scheduler{at: h, Addr: h.Addr("8002"), Debug: debug, flags: flags}
	s.config, err = h.write("scheduler.toml", fmt.Sprintf("[debug]\nlisten = %q\n%s", debug, more))
	if err != nil {
		return nil, err
	}
	return s, s.Start(ctx)
}

// Start starts the scheduler again after it was stopped or killed.
func (s *Scheduler) Start(ctx context.Context) error {
	bin, err := s.at.lab.binary(ctx, "dfscheduler")
	if err != nil {
		return err
	}
	if s.Process, err = s.at.Start("scheduler", nil, append([]string{bin, "--config", s.config}, s.flags...)...); err != nil {
		return err
	}
	return s.ready(ctx, 30*time.Second, func() error { return s.at.isReady(ctx, s.Debug) })
}

// View is what the scheduler tells operators.
type View struct {
	Counts struct{ Hosts, Seeds, Swarms, Active int }
	Bans   []struct {
		Host   string
		Banned bool
		Reason string
	}
	Text string // all of it
}

// View asks the scheduler what it knows.
func (s *Scheduler) View(ctx context.Context) (v View, err error) {
	text, err := s.at.get(ctx, "http://"+s.Debug+"/debug.json")
	if err != nil {
		return v, err
	}
	v.Text = string(text)
	return v, json.Unmarshal(text, &v)
}

// Metrics returns the scheduler's metrics by name and labels, as they are
// written.
func (s *Scheduler) Metrics(ctx context.Context) (map[string]float64, error) {
	return s.at.metrics(ctx, s.Debug)
}
