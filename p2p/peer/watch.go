package peer

import (
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

const (
	headerSize = "Df-Blob-Size"
	// aliveEvery is how long a have-map stream is silent at most, and
	// silentFor how long its reader waits: a parent whose packets are dropped
	// looks just like one that has nothing to say.
	aliveEvery = 5 * time.Second
	silentFor  = 4 * aliveEvery
)

// getHave tells which pieces are here, and goes on to do so until the client
// leaves, the blob is gone or the server stops.
func (s *Server) getHave(w http.ResponseWriter, r *http.Request) {
	err := s.serveHave(w, r)
	s.metrics.requests.WithLabelValues(served(err)).Inc()
	if err != nil {
		s.log.Debug("have-map stream ended", "blob", r.PathValue("digest"), "peer", r.RemoteAddr, "err", err)
	}
}

func (s *Server) serveHave(w http.ResponseWriter, r *http.Request) error {
	d := digest.Digest(r.PathValue("digest"))
	if err := p2p.ValidateDigest(d); err != nil {
		return refuse(w, status(err), err)
	}
	size, err := s.blobs.Stat(d)
	if err != nil {
		return refuse(w, status(err), err)
	}
	if r.Method == http.MethodHead {
		w.Header().Set(headerSize, strconv.FormatInt(size, 10))
		return nil
	}
	host := hostOf(r)
	if !s.watchers.take(host, false) {
		return refuse(w, http.StatusServiceUnavailable, errBusy)
	}
	defer s.watchers.free(host)
	w.Header().Set(headerSize, strconv.FormatInt(size, 10))
	w.Header().Set("Content-Type", "application/octet-stream")
	return s.pushHave(w, r, d)
}

func (s *Server) pushHave(w http.ResponseWriter, r *http.Request, d digest.Digest) error {
	rc := http.NewResponseController(w)
	alive := time.NewTicker(aliveEvery)
	defer alive.Stop()
	var said *p2p.Have
	var buf []byte
	for {
		have, changed, err := s.blobs.Have(d)
		switch {
		case errors.Is(err, ErrNotFound):
			buf = appendFrame(buf[:0], frameGone, nil)
		case err != nil:
			return err
		default:
			buf = difference(buf[:0], said, have)
		}
		if len(buf) > 0 {
			if err := push(w, rc, buf); err != nil {
				return err
			}
		}
		if err != nil {
			return nil // it is gone, and that was said
		}
		said = have
		if more, err := s.await(w, r, rc, changed, alive); !more {
			return err
		}
	}
}

// await returns when something has changed, or false when nobody wants to know.
func (s *Server) await(w http.ResponseWriter, r *http.Request, rc *http.ResponseController, changed <-chan struct{}, alive *time.Ticker) (more bool, err error) {
	for {
		select {
		case <-changed:
			return true, nil
		case <-alive.C:
			if err := push(w, rc, []byte{byte(frameAlive)}); err != nil {
				return false, err
			}
		case <-r.Context().Done():
			return false, nil
		case <-s.stopping:
			return false, nil
		}
	}
}

func push(w http.ResponseWriter, rc *http.ResponseController, b []byte) error {
	if err := rc.SetWriteDeadline(time.Now().Add(silentFor)); err != nil {
		return err
	}
	if _, err := w.Write(b); err != nil {
		return err
	}
	return rc.Flush()
}
