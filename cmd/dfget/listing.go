package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"strings"

	"golang.org/x/net/html"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin/s3"
)

const (
	maxPage  = 16 << 20 // bytes of a listing
	maxFiles = 100_000  // of a tree, and folders
	maxPath  = 4096     // bytes of a file's, as Linux has it
)

var errLong = fmt.Errorf("the listing has more than %d MiB", maxPage>>20)

var errTooMany = fmt.Errorf("there are more than %d files and folders", maxFiles)

// found is a file of a tree.
type found struct {
	Path string `json:"path"` // below the folder
	URL  string `json:"url"`
	Size int64  `json:"size"` // -1: unknown
}

// lister lists a tree.
type lister struct {
	client *origin.Client
	header http.Header
	depth  int                    // how many folders deep; < 0: all
	skips  func(path string) bool // a folder
	files  []found
	seen   map[string]bool
}

// listWeb lists what a web server shows in HTML.
func (l *lister) listWeb(ctx context.Context, base *url.URL) error {
	root := *base
	root.RawQuery, root.Fragment = "", ""
	if !strings.HasSuffix(root.Path, "/") {
		root.Path, root.RawPath = root.Path+"/", ""
	}
	l.seen = map[string]bool{}
	return l.folder(ctx, &root, &root, 0)
}

func (l *lister) folder(ctx context.Context, root, at *url.URL, depth int) error {
	links, err := l.links(ctx, at)
	if err != nil {
		return fmt.Errorf("list %s: %w", at.Redacted(), err)
	}
	for _, u := range links {
		rel, folder, ok := below(root, u)
		if !ok || l.seen[rel] {
			continue
		}
		if len(l.seen) >= maxFiles {
			return errTooMany
		}
		l.seen[rel] = true
		switch {
		case folder && (l.depth >= 0 && depth >= l.depth || l.skips(rel)):
		case folder:
			if err := l.folder(ctx, root, u, depth+1); err != nil {
				return err
			}
		default:
			l.files = append(l.files, found{rel, u.String(), -1})
		}
	}
	return nil
}

// below returns where a link leads: to a file or folder below the root, by a path in
// which nothing is odd.
func below(root, u *url.URL) (rel string, folder, ok bool) {
	rest, in := strings.CutPrefix(u.Path, root.Path)
	rel, folder = strings.CutSuffix(rest, "/")
	if u.Scheme != root.Scheme || u.Host != root.Host || !in || u.RawQuery != "" || !local(rel) {
		return "", false, false
	}
	return rel, folder, true
}

// local reports whether a path leads to something below a folder, and nowhere else.
func local(rel string) bool {
	if len(rel) > maxPath {
		return false
	}
	for part := range strings.SplitSeq(rel, "/") {
		if part == "" || part == "." || part == ".." || strings.ContainsAny(part, "\x00\\") {
			return false
		}
	}
	return true
}

// links returns where the links of a page lead.
func (l *lister) links(ctx context.Context, at *url.URL) ([]*url.URL, error) {
	where := origin.AnyVersion(at)
	defer l.client.Lend(where, origin.Access{URL: at, Header: l.header})()
	body, err := l.client.File(ctx, where, 0, -1)
	if err != nil {
		return nil, err
	}
	defer func() { _ = body.Close() }() // it was only read
	var links []*url.URL
	limited := &io.LimitedReader{R: body, N: maxPage + 1}
	for page := html.NewTokenizer(limited); ; {
		switch page.Next() {
		case html.ErrorToken:
			err := page.Err()
			switch {
			case limited.N <= 0:
				return nil, errLong
			case !errors.Is(err, io.EOF):
				return nil, err
			}
			return links, nil
		case html.StartTagToken:
			t := page.Token()
			if t.Data != "a" {
				continue
			}
			for _, a := range t.Attr {
				if u, err := at.Parse(a.Val); a.Key == "href" && err == nil {
					u.Fragment = ""
					links = append(links, u)
				}
			}
		}
	}
}

// listStore lists the objects below a prefix.
func (l *lister) listStore(ctx context.Context, store *s3.Store, address string) error {
	bucket, prefix, err := s3.Parse(address)
	if err != nil {
		return err
	}
	if prefix != "" && !strings.HasSuffix(prefix, "/") {
		prefix += "/"
	}
	objects, err := store.List(ctx, bucket, prefix, maxFiles)
	if err != nil {
		return err
	}
	if len(objects) > maxFiles {
		return errTooMany
	}
	for _, o := range objects {
		rel := strings.TrimPrefix(o.Key, prefix)
		if !local(rel) || l.depth >= 0 && strings.Count(rel, "/") > l.depth || l.skipped(rel) {
			continue // one that ends in a slash stands for a folder
		}
		l.files = append(l.files, found{rel, "s3://" + bucket + "/" + o.Key, o.Size})
	}
	return nil
}

// skipped reports whether a file lies in a folder that is skipped.
func (l *lister) skipped(rel string) bool {
	for dir := path.Dir(rel); dir != "."; dir = path.Dir(dir) {
		if l.skips(dir) {
			return true
		}
	}
	return false
}
