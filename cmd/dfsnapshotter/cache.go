package main

import (
	"errors"
	"io"
	"net/http"
	"strconv"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/agent"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/store"
	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// serveCache serves `dfget cache`.
func (n *node) serveCache(mux *http.ServeMux) {
	mux.HandleFunc("GET /v1/cache", n.listCache)
	for pattern, do := range map[string]func(w http.ResponseWriter, r *http.Request, d digest.Digest) error{
		"DELETE /v1/cache/{digest}": func(_ http.ResponseWriter, r *http.Request, d digest.Digest) error {
			return n.fetcher.Remove(r.Context(), d)
		},
		"PUT /v1/cache/{digest}/pin": func(_ http.ResponseWriter, _ *http.Request, d digest.Digest) error {
			return n.fetcher.Pin(d)
		},
		"DELETE /v1/cache/{digest}/pin": func(_ http.ResponseWriter, _ *http.Request, d digest.Digest) error {
			return n.fetcher.Unpin(d)
		},
		"PUT /v1/cache/{digest}": func(_ http.ResponseWriter, r *http.Request, d digest.Digest) error {
			if r.ContentLength < 0 {
				return errSizeless
			}
			return n.fetcher.Import(r.Context(), d, r.ContentLength, r.Body)
		},
		"GET /v1/cache/{digest}/content": n.exportBlob,
	} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			d := digest.Digest(r.PathValue("digest"))
			err := p2p.ValidateDigest(d)
			if err == nil {
				err = do(w, r, d)
			}
			if err != nil {
				n.log.Debug("not done for dfget", "what", pattern, "blob", d, "err", err)
				http.Error(w, err.Error(), cacheStatus(err))
			}
		})
	}
}

var errSizeless = errors.New("the request does not say how long the blob is")

func cacheStatus(err error) int {
	switch {
	case errors.Is(err, store.ErrMissing):
		return http.StatusNotFound
	case errors.Is(err, store.ErrInUse), errors.Is(err, store.ErrPinned), errors.Is(err, store.ErrSize):
		return http.StatusConflict
	case errors.Is(err, fetcher.ErrDigest):
		return http.StatusUnprocessableEntity
	case errors.Is(err, fetcher.ErrFull):
		return http.StatusInsufficientStorage
	}
	return http.StatusBadRequest
}

func (n *node) listCache(w http.ResponseWriter, _ *http.Request) {
	list := []agent.Kept{}
	for _, k := range n.fetcher.Kept() {
		list = append(list, agent.Kept{Digest: k.Digest, Size: k.Size, Held: k.Held, Whole: k.Verified, Pinned: k.Pinned, InUse: k.InUse, Used: k.Used})
	}
	n.answer(w, list)
}

func (n *node) exportBlob(w http.ResponseWriter, _ *http.Request, d digest.Digest) error {
	r, size, err := n.fetcher.Content(d)
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }() // it was only read
	w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	if _, err := io.CopyN(w, r, size); err != nil {
		n.log.Debug("blob not exported", "blob", d, "err", err) // dfget sees that it is too short
	}
	return nil
}
