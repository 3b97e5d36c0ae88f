package job

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/field"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/registry"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/warm"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/file"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// Why a file cannot be preheated.
var (
	// ErrFile: there is no such file, or it cannot be shared. Trying again does not help.
	ErrFile = errors.New("not a file that can be preheated")
	// ErrFileAway: its server does not answer. Trying again may help.
	ErrFileAway = errors.New("the file's server does not answer")
)

// file brings the job's file into the cluster, under the name by which dfget asks for
// it. It returns nil only when all of it was found to be there.
func (r *Runner) file(ctx context.Context, j store.Job) error {
	s, err := r.secret(j)
	if err != nil {
		return err
	}
	if s.File == nil {
		return fmt.Errorf("%w: the job does not say which", ErrFile)
	}
	f, one, err := r.find(ctx, *s.File)
	if err != nil {
		return err
	}
	if err := r.list(ctx, j, one); err != nil {
		return err
	}
	hosts, err := r.targets(ctx, j)
	if err != nil {
		return err
	}
	leave := f.Leave()
	return r.blobs(ctx, j, one, warm.Order{Registry: f.Repo.Host, Repository: f.Repo.Path, Tokens: fileLeave(leave), Private: leave != ""}, hosts)
}

// find asks a file's server which version of it there is, which is the one blob of
// what find returns.
func (r *Runner) find(ctx context.Context, s file.Spec) (*file.File, registry.Image, error) {
	f, err := file.Find(ctx, r.Files, s)
	var down *origin.UnavailableError
	switch {
	case errors.As(err, &down):
		return nil, registry.Image{}, fmt.Errorf("%w: %w", ErrFileAway, err)
	case errors.Is(err, origin.ErrNotFound):
		return nil, registry.Image{}, fmt.Errorf("%w: its server has none: %w", ErrFile, err)
	case errors.Is(err, origin.ErrUnauthorized):
		return nil, registry.Image{}, fmt.Errorf("%w: its server refuses the headers of the job, or wants some: %w", ErrFile, err)
	case err != nil:
		return nil, registry.Image{}, fmt.Errorf("%w: %w", ErrFile, err)
	case f.Name == "":
		return nil, registry.Image{}, fmt.Errorf("%w: %s", ErrFile, f.Why)
	case f.Size > p2p.MaxSize:
		return nil, registry.Image{}, fmt.Errorf("%w: it is too large to be shared", ErrFile)
	}
	b := registry.Blob{Blob: p2p.Blob{Digest: f.Name, Size: f.Size}, Kind: File}
	return f, registry.Image{Digest: f.Name, Blobs: []registry.Blob{b}}, nil
}

// fileLeave is what lets a seed read a file; "": it needs nothing.
type fileLeave string

// Lent is that.
func (l fileLeave) Lent() string { return string(l) }

// Renew fails: there is no other.
func (l fileLeave) Renew(context.Context) error {
	if l == "" {
		return errors.New("the file's server does not let a seed read it; give the job headers that may")
	}
	return errors.New("the file's server does not let a seed read it with the job's address and headers, or not any more")
}

// FileOptions tell a file from others of its address, and are no secret.
type FileOptions struct {
	Digest digest.Digest `json:"digest,omitempty"`
	Tag    string        `json:"tag,omitempty"`
	Filter []string      `json:"filter,omitempty"`
}

func fileText(s file.Spec) string {
	text, err := json.Marshal(FileOptions{s.Digest, s.Tag, s.Filter})
	if err != nil {
		panic(err) // of texts
	}
	return string(text)
}

// FileOf is what a job for a file has stored; nil if it is for none.
func FileOf(j store.Job) *FileOptions {
	if j.Kind != File {
		return nil
	}
	o := &FileOptions{}
	_ = json.Unmarshal([]byte(j.File), o) // it was written by fileText
	return o
}

// address is that of a file without what is secret.
func (q Request) address() string {
	text, _ := q.File.Public() // it was checked
	return text
}

const (
	maxURL        = 4096
	maxTag        = 128
	maxFilter     = 50
	maxHeaders    = 16 << 10 // bytes of all of them
	maxHeaderName = 100
)

var headerName = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")

// file notes what an order says that is about a file.
func (o Order) file(q *Request, wrong field.Errors) {
	s := file.Spec{URL: strings.TrimSpace(o.URL), Digest: digest.Digest(o.Digest), Tag: o.Tag, Filter: o.Filter}
	if _, err := s.Public(); err != nil {
		name := "url"
		if s.Digest != "" && s.Digest.Validate() != nil {
			name = "digest"
		}
		wrong[name] = err.Error()
	}
	if len(s.URL) > maxURL {
		wrong["url"] = fmt.Sprintf("must be of %d bytes at most", maxURL)
	}
	if len(s.Tag) > maxTag || !field.Printable(s.Tag) {
		wrong["tag"] = fmt.Sprintf("must be printable, and of %d bytes at most", maxTag)
	}
	if len(s.Filter) > maxFilter {
		wrong["filter"] = fmt.Sprintf("must be %d names at most", maxFilter)
	}
	if s.Header = o.header(wrong); len(s.Header) == 0 {
		s.Header = nil
	}
	for name, given := range map[string]bool{
		"image": o.Image != "", "blob": o.Blob != "", "plain_http": o.PlainHTTP, "platforms": len(o.Platforms) > 0,
		"registry_user": o.User != "", "registry_password": o.Password != "", "registry_token": o.Token != "",
	} {
		if given {
			wrong[name] = "goes with images"
		}
	}
	q.File = &s
}

// header is what the file's server is sent.
func (o Order) header(wrong field.Errors) http.Header {
	h, size := http.Header{}, 0
	for _, name := range slices.Sorted(maps.Keys(o.Headers)) {
		value := o.Headers[name]
		size += len(name) + len(value)
		if len(name) > maxHeaderName || !headerName.MatchString(name) || !field.Printable(value) {
			wrong["headers"] = "must be names and printable values"
		}
		h.Set(name, value)
	}
	if size > maxHeaders {
		wrong["headers"] = fmt.Sprintf("must be of %d bytes at most", maxHeaders)
	}
	return h
}
