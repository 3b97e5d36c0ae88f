package file

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
)

// leave is what another host needs, besides its address, to read a file.
type leave struct {
	URL    string      `json:"url"`
	Header http.Header `json:"header,omitempty"`
	Filter []string    `json:"filter,omitempty"`
}

// Leave returns what lets other hosts read the file as this request may, which is a
// secret; "" if its address is all they need.
func (f *File) Leave() string {
	if !f.Repo.IsFile() || f.access.URL == nil {
		return ""
	}
	u := f.access.URL
	if len(f.access.Header) == 0 && u.User == nil && public(u, f.filter).RawQuery == u.Query().Encode() {
		return ""
	}
	text, err := json.Marshal(leave{u.String(), f.access.Header, f.filter})
	if err != nil {
		panic(err) // of texts
	}
	return base64.StdEncoding.EncodeToString(text)
}

// errLeave says that a leave is none, or is for another file.
var errLeave = errors.New("it is no leave to read this file")

// Take lets a client read r as a leave says, until then.
func Take(c *origin.Client, r origin.Repo, text string, until time.Time) error {
	plain, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return errLeave // which may hold a secret
	}
	var l leave
	if err := json.Unmarshal(plain, &l); err != nil {
		return errLeave
	}
	u, err := url.Parse(l.URL)
	if err != nil {
		return errLeave
	}
	if at := origin.AnyVersion(public(u, l.Filter)); r.Unpinned() != at {
		return fmt.Errorf("%w, but for %s", errLeave, at)
	}
	c.Learn(r, origin.Access{URL: u, Header: l.Header}, until)
	return nil
}
