package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/agent"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

const (
	maxChanges = 3                // of the file, while it is downloaded
	maxTries   = 5                // in a row that bring no byte
	pause      = time.Second      // after the first of them; doubled by each further one
	agentAgain = 30 * time.Second // for an agent that was there to be there again
)

// fetch brings all of the file into p, by the agent or straight from the server,
// and goes on where it was interrupted.
func (d *download) fetch(ctx context.Context, p *part) error {
	var gone time.Time // since when the agent is
	served := false
	for tries := 1; ; tries++ {
		before := p.size
		var err error
		if d.direct == "" {
			err = d.fromAgent(ctx, p, &served)
		} else {
			err = d.fromOrigin(ctx, p)
		}
		if err == nil || ctx.Err() != nil {
			return err
		}
		if p.size > before {
			tries, gone = 1, time.Time{}
		}
		if d.direct == "" && errors.Is(err, agent.ErrAgent) && gone.IsZero() {
			gone = time.Now()
		}
		again, wait := d.again(err, p, tries, served && time.Since(gone) < agentAgain)
		if !again {
			return err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// again decides what follows from a failure: another try, after a while, of the
// agent or of the server, or none. back says that the agent may be there again
// soon.
func (d *download) again(err error, p *part, tries int, back bool) (again bool, wait time.Duration) {
	var said *agent.Error
	errors.As(err, &said)
	var no *agent.Refusal
	var down *origin.UnavailableError
	wait = min(pause<<(tries-1), 15*time.Second)
	switch {
	case p.failed:
		return false, 0
	case said != nil && said.Code == agent.Direct:
		d.straight("since " + said.Text)
		return true, 0
	case errors.Is(err, agent.ErrAgent) && back:
		return true, pause / 4
	case errors.Is(err, agent.ErrAgent), errors.As(err, &no):
		d.straight("since " + err.Error())
		return true, 0
	case errors.Is(err, agent.ErrCut):
		return tries < maxTries, pause / 4
	case said != nil && said.Code == agent.Changed, errors.Is(err, origin.ErrChanged):
		return d.anew(p, maxChanges), 0
	case said != nil && said.Code == agent.Digest, errors.Is(err, origin.ErrDigest):
		return d.anew(p, 1), 0
	case errors.As(err, &down):
		return tries < maxTries && p.canGoOn(), max(wait, down.RetryAfter)
	}
	return false, 0
}

// anew throws away what is there, and reports whether to begin anew: most times.
func (d *download) anew(p *part, most int) bool {
	d.begun++
	return p.restart() == nil && d.begun <= most
}

// straight goes to the server from now on.
func (d *download) straight(why string) {
	d.direct = why
	d.show.Show("")
	_, _ = fmt.Fprintf(d.log, "dfget: straight from the server, %s\n", why)
}

// brokeOff reports whether the agent was there, and went away before it answered: it
// was killed, perhaps, or is being upgraded.
func brokeOff(err error) bool {
	var op *net.OpError
	return errors.Is(err, agent.ErrAgent) && (!errors.As(err, &op) || op.Op != "dial")
}

// fromAgent reads what is missing of p from the agent.
func (d *download) fromAgent(ctx context.Context, p *part, served *bool) (err error) {
	q := agent.Request{Spec: d.Spec, Have: p.size}
	if q.Have > 0 {
		sums, err := p.digests()
		if err != nil {
			return err
		}
		q.HaveSum = sums.sha256()
	}
	s, err := agent.Ask(ctx, d.socket, q)
	if err != nil {
		*served = *served || brokeOff(err)
		return err
	}
	defer func() { _ = s.Close() }() // it was only read
	*served = true
	if s.Start.Off != p.size {
		if err := p.restart(); err != nil {
			return err
		}
	}
	d.show.begin(p.size, s.Start.Size)
	buf := make([]byte, 256<<10)
	for {
		e, n, err := s.Next(buf)
		if n > 0 {
			if err := d.put(ctx, p, buf[:n]); err != nil {
				return err
			}
		}
		switch {
		case err != nil:
			return err
		case e == nil:
		case e.From != nil:
			d.result.From = *e.From
			d.show.from(*e.From)
		case e.End != nil && e.End.Error != nil:
			return e.End.Error
		case e.End != nil && p.size != s.Start.Size:
			return fmt.Errorf("%w: %d bytes came of %d", agent.ErrCut, p.size, s.Start.Size)
		case e.End != nil:
			d.result.Digest = e.End.Digest
			return nil
		}
	}
}

// put takes bytes as fast as the limit lets it.
func (d *download) put(ctx context.Context, p *part, data []byte) error {
	const step = 64 << 10
	for len(data) > 0 {
		now := data[:min(len(data), step)]
		if d.limit != nil {
			if err := d.limit.Wait(ctx, len(now), p2p.OnDemand); err != nil {
				return err
			}
		} else {
			now = data
		}
		if err := p.write(now); err != nil {
			return err
		}
		data = data[len(now):]
		d.show.came(p.size)
	}
	return nil
}
