package main

import (
	"encoding/json"
	"net/http"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/daemon"
	"github.com/dfsnapshotter/dfsnapshotter/fs"
)

// openStatus serves what `dfsnapshotter status` shows, `dfsnapshotter wait`
// asks for, and dfget fetches.
func (n *node) openStatus() (*daemon.Server, error) {
	ln, err := daemon.ListenUnix(n.cfg.statusSocket())
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/layers", func(w http.ResponseWriter, _ *http.Request) {
		n.answer(w, n.layers())
	})
	mux.HandleFunc("GET /v1/image", n.image)
	mux.HandleFunc("POST /v1/file", n.file)
	mux.HandleFunc("GET /v1/status", n.about)
	n.serveCache(mux)
	return daemon.Serve(ln, mux), nil
}

// answer sends JSON.
func (n *node) answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		n.log.Debug("write status", "err", err)
	}
}

func (n *node) layers() []fs.Status {
	if n.fs == nil {
		return []fs.Status{}
	}
	return n.fs.Status()
}
