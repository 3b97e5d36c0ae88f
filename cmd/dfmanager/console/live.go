package console

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/web"
)

const (
	beat     = 15 * time.Second // something is sent so often, or connections are taken for dead
	sendWait = 10 * time.Second // for how long a browser may not take it
)

// live sends the live part of a page as server-sent events, again when it looks
// different, until the visitor leaves, is signed out, or look says that nothing
// will change any more.
func (c *Console) live(v *web.Visit, look func(context.Context) (f frame, final bool, err error)) error {
	select {
	case c.streams <- struct{}{}:
		defer func() { <-c.streams }()
	default:
		return &web.Error{Status: http.StatusServiceUnavailable, Code: "too_many_visitors", Message: "too many live pages are open", RetryAfter: 10 * time.Second}
	}
	ctx := v.Context()
	s := &stream{w: v.W, to: http.NewResponseController(v.W)}
	tick := time.NewTicker(c.Tick)
	defer tick.Stop()
	for {
		f, final, err := look(ctx)
		if err != nil && !s.begun {
			return err // it can still be said
		}
		if err == nil {
			f.User = v.User
			if err := s.part(f); err != nil {
				return nil // who has left does not hear why
			}
		}
		if final || !c.signedIn(ctx, v) {
			_ = s.send([]byte("event: end\ndata: \n\n"))
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// signedIn reports whether the visitor still is. When the database is away,
// nobody is sent away.
func (c *Console) signedIn(ctx context.Context, v *web.Visit) bool {
	_, err := c.Store.SessionUser(ctx, v.Session)
	return !errors.Is(err, store.ErrNotFound)
}

// stream is where events go.
type stream struct {
	w     http.ResponseWriter
	to    *http.ResponseController
	begun bool
	last  []byte    // part that was sent
	at    time.Time // when something was
}

// part sends a page's live part if it is news.
func (s *stream) part(f frame) error {
	text, err := execute(f, "live")
	if err != nil {
		return err
	}
	if s.begun && bytes.Equal(text, s.last) {
		if time.Since(s.at) < beat {
			return nil
		}
		return s.send([]byte(":\n\n"))
	}
	s.last = text
	var b bytes.Buffer
	for line := range bytes.Lines(text) {
		if line = bytes.TrimSpace(line); len(line) > 0 {
			b.WriteString("data: ")
			b.Write(line)
			b.WriteByte('\n')
		}
	}
	b.WriteByte('\n')
	return s.send(b.Bytes())
}

func (s *stream) send(event []byte) error {
	if !s.begun {
		s.begun = true
		s.w.Header().Set("Content-Type", "text/event-stream")
		s.w.Header().Set("X-Accel-Buffering", "no") // or nginx keeps events to itself
	}
	s.at = time.Now()
	if err := s.to.SetWriteDeadline(s.at.Add(sendWait)); err != nil {
		return err
	}
	if _, err := s.w.Write(event); err != nil {
		return err
	}
	return s.to.Flush()
}
