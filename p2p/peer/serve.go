package peer

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

const (
	retryAfter = time.Second
	// sendStep is what is sent between two looks at the limit and the clock.
	sendStep = 256 << 10
	// limitedStep is the same where there is a limit: the larger a step, the
	// longer its first byte waits.
	limitedStep = 64 << 10
	// sendTimeout is how long a client may take for one step. At the least
	// speed that makes sense, 32 clients on 2 Mbit/s, a step takes 34 s.
	sendTimeout = time.Minute
	copySize    = 64 << 10
)

var buffers = sync.Pool{New: func() any { return new([copySize]byte) }}

var errBusy = errors.New("no upload slot is free")

// getBlob answers GET and HEAD of a range of a blob.
func (s *Server) getBlob(w http.ResponseWriter, r *http.Request) {
	err := s.serveBlob(w, r)
	s.metrics.requests.WithLabelValues(served(err)).Inc()
	if err != nil {
		s.log.Debug("refused or broken", "blob", r.PathValue("digest"), "range", r.Header.Get("Range"), "peer", r.RemoteAddr, "err", err)
	}
}

func (s *Server) serveBlob(w http.ResponseWriter, r *http.Request) error {
	d := digest.Digest(r.PathValue("digest"))
	if err := p2p.ValidateDigest(d); err != nil {
		return refuse(w, status(err), err)
	}
	ask, err := parseAsk(r.Header)
	if err != nil {
		return refuse(w, status(err), err)
	}
	size, err := s.blobs.Stat(d)
	if err != nil {
		return refuse(w, status(err), err)
	}
	off, n, err := parseRange(r.Header.Get("Range"), size)
	if err != nil {
		w.Header().Set("Content-Range", "bytes */"+strconv.FormatInt(size, 10))
		return refuse(w, status(err), err)
	}
	if ask.Wait && n > 0 && r.Method != http.MethodHead {
		if err := s.comes(r, d, off, size); err != nil {
			return refuse(w, status(err), err)
		}
	}
	if r.Method == http.MethodHead {
		ask.Through = false
	} else if host := hostOf(r); !s.slots.take(host, ask.Priority == p2p.OnDemand) {
		return refuse(w, http.StatusServiceUnavailable, errBusy)
	} else {
		defer s.slots.free(host)
	}
	return s.sendBlob(w, r, d, extent{off, n, size}, ask)
}

// extent is a run of bytes of a blob.
type extent struct{ off, n, size int64 }

// sendBlob sends the front of e that is here.
func (s *Server) sendBlob(w http.ResponseWriter, r *http.Request, d digest.Digest, e extent, ask Ask) error {
	var body io.ReadCloser
	if e.n > 0 {
		var err error
		var n int64
		if body, n, err = s.blobs.Open(r.Context(), d, e.off, e.n, ask); err != nil {
			return refuse(w, status(err), err)
		}
		defer func() { _ = body.Close() }() // it was only read
		if n < e.n && r.Header.Get("Range") == "" {
			return refuse(w, http.StatusNotFound, ErrNotFound) // 200 means all of it
		}
		e.n = min(n, e.n)
	}
	h := w.Header()
	h.Set("Accept-Ranges", "bytes")
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Content-Length", strconv.FormatInt(e.n, 10))
	h.Set("Etag", strconv.Quote(d.String()))
	if r.Header.Get("Range") != "" {
		h.Set("Content-Range", contentRange(e.off, e.n, e.size))
		w.WriteHeader(http.StatusPartialContent)
	}
	if r.Method == http.MethodHead || body == nil {
		return nil
	}
	sent, err := s.send(r.Context(), w, body, e.n, ask.Priority)
	s.metrics.bytes.WithLabelValues(priorities[ask.Priority]).Add(float64(sent))
	return err
}

// send copies n bytes from body as fast as limit and client allow. A body that
// ends early makes the response end early, which the client notices.
func (s *Server) send(ctx context.Context, w http.ResponseWriter, body io.Reader, n int64, p p2p.Priority) (sent int64, err error) {
	rc := http.NewResponseController(w)
	_, whole := body.(*os.File)
	most := int64(sendStep)
	if s.upload != nil {
		most = limitedStep
	}
	for sent < n && err == nil {
		step := min(n-sent, most)
		if s.upload != nil {
			if err := s.upload.Wait(ctx, int(step), p); err != nil {
				return sent, err
			}
		}
		if err := rc.SetWriteDeadline(time.Now().Add(sendTimeout)); err != nil {
			return sent, err
		}
		var m int64
		if whole {
			m, err = io.CopyN(w, body, step) // sendfile, on a plain connection
		} else {
			m, err = copyLive(w, rc, body, step)
		}
		sent += m
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return sent, err
}

// copyLive copies n bytes and holds none of them back.
func copyLive(w io.Writer, rc *http.ResponseController, r io.Reader, n int64) (done int64, err error) {
	buf := buffers.Get().(*[copySize]byte)
	defer buffers.Put(buf)
	for done < n {
		m, err := r.Read(buf[:min(n-done, copySize)])
		if m > 0 {
			if err := rc.SetWriteDeadline(time.Now().Add(sendTimeout)); err != nil {
				return done, err
			}
			k, err := w.Write(buf[:m])
			done += int64(k)
			if err != nil {
				return done, err
			}
			if err := rc.Flush(); err != nil {
				return done, err
			}
		}
		if err != nil && done < n {
			return done, err
		}
	}
	return done, nil
}

func refuse(w http.ResponseWriter, status int, err error) error {
	if status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", strconv.Itoa(int(retryAfter/time.Second)))
	}
	http.Error(w, err.Error(), status)
	return err
}

// status is the code that says err to a client.
func status(err error) int {
	switch {
	case errors.Is(err, ErrNotFound):
		return http.StatusNotFound
	case errors.Is(err, errRange), errors.Is(err, errHeader), errors.Is(err, p2p.ErrInvalid):
		return http.StatusBadRequest
	case errors.Is(err, errOutOfRange):
		return http.StatusRequestedRangeNotSatisfiable
	case errors.Is(err, errCircle):
		return http.StatusLoopDetected
	case errors.Is(err, errBusy):
		return http.StatusServiceUnavailable
	default:
		return http.StatusBadGateway
	}
}

// served is the value of the label "result" for a request that ended with err.
func served(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, ErrNotFound):
		return "not_found"
	case errors.Is(err, errBusy):
		return "busy"
	case status(err) != http.StatusBadGateway:
		return "refused"
	default:
		return "broken"
	}
}
