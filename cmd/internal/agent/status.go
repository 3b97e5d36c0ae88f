package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// Status is what an agent says of itself.
type Status struct {
	Version string    `json:"version"`
	PID     int       `json:"pid"`
	Time    time.Time `json:"time"` // now, by its clock
	Started time.Time `json:"started"`
	Config  string    `json:"config,omitempty"` // its file; "": there is none

	Root     string `json:"root"`
	Address  string `json:"address,omitempty"` // containerd's socket of it; "": it mounts nothing
	Mirror   string `json:"mirror,omitempty"`  // of registries; "": it is none
	Upstream string `json:"upstream,omitempty"`
	HostsDir string `json:"hosts_dir"`
	CRI      string `json:"cri,omitempty"` // socket of the image service; "": it is none

	Cluster *Cluster       `json:"cluster,omitempty"` // nil: it is alone
	Layers  map[string]int `json:"layers,omitempty"`  // by their state
	Cache   Cache          `json:"cache"`
	Moved   Moved          `json:"moved"`
}

// Cluster is an agent's place among others.
type Cluster struct {
	Host       string          `json:"host"`
	Address    string          `json:"address,omitempty"` // where others get pieces
	Seed       bool            `json:"seed"`
	Schedulers map[string]bool `json:"schedulers"`        // by host:port: whether it reaches them
	Manager    string          `json:"manager,omitempty"` // "": there is none
	Linked     bool            `json:"linked"`            // it reaches the manager
	TLS        bool            `json:"tls"`
	Expires    time.Time       `json:"expires,omitzero"` // of its certificate; zero: there is none
}

// Cache is how much an agent keeps, in bytes.
type Cache struct {
	Used  int64 `json:"used"`
	Max   int64 `json:"max"`
	Blobs int   `json:"blobs"`
	Free  int64 `json:"free"` // bytes of the file system that may be written
	Disk  int64 `json:"disk"` // its bytes, without those that are kept for root
}

// Moved is what an agent has read of blobs since it was started, in bytes, by where it
// came from, and what it gave to others.
type Moved struct {
	From
	Sent int64 `json:"sent"`
}

// Kept is what an agent has of a blob.
type Kept struct {
	Digest digest.Digest `json:"digest"`
	Size   int64         `json:"size"`
	Held   int64         `json:"held"`  // bytes
	Whole  bool          `json:"whole"` // all of it is there and right
	Pinned bool          `json:"pinned"`
	InUse  bool          `json:"in_use"`
	Used   time.Time     `json:"used"`
}

// Refusal is an answer of an agent that is no success.
type Refusal struct {
	Status int
	Text   string
}

func (r *Refusal) Error() string { return r.Text }

// Get asks the agent for what a path holds as JSON.
func Get(ctx context.Context, socket, path string, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	body, err := Do(ctx, socket, http.MethodGet, path, nil, 0)
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }() // it was only read
	return json.NewDecoder(body).Decode(answer)
}

// Do asks the agent for something, with n bytes of content, and returns its answer. The
// error is ErrAgent if nobody answers, and a Refusal if the agent says no.
func Do(ctx context.Context, socket, method, path string, content io.Reader, n int64) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://agent"+path, content)
	if err != nil {
		return nil, err
	}
	if content != nil {
		req.ContentLength = n
	}
	resp, err := Client(socket).Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("%w: %w", ErrAgent, errors.Unwrap(err)) // less the URL, which says nothing
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return nil, refused(resp)
	}
	return resp.Body, nil
}

// refused returns the Refusal that an answer is, and closes it.
func refused(resp *http.Response) error {
	why, _ := io.ReadAll(io.LimitReader(resp.Body, 4096)) // what can be read
	r := &Refusal{resp.StatusCode, strings.TrimSpace(string(why))}
	if r.Text == "" || resp.StatusCode == http.StatusNotFound && r.Text == "404 page not found" {
		r.Text = "the agent answers " + resp.Status + ": it may be of another version"
	}
	return errors.Join(r, resp.Body.Close())
}
