package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/file"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/terminal"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
)

// tree is what --recursive is about.
type tree struct {
	recursive      bool
	accept, reject []string
	level          int
	list           bool
	at             int // files at a time
}

func (t *tree) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolVarP(&t.recursive, "recursive", "r", false, "URL is a folder: download what is below it into the folder FILE")
	f.StringSliceVar(&t.accept, "accept", nil, `with --recursive only files like these, such as "*.safetensors,config.json"; patterns with a slash are of paths below URL`)
	f.StringSliceVar(&t.reject, "reject", nil, "with --recursive no files, and nothing in folders, like these")
	f.IntVar(&t.level, "level", -1, "with --recursive how many folders deep; 0: none (default: all)")
	f.BoolVar(&t.list, "list", false, "with --recursive list the files, and download nothing")
	f.IntVar(&t.at, "files-at-a-time", 4, "with --recursive so many")
}

// alone refuses flags that make sense with --recursive only.
func (t *tree) alone() error {
	if len(t.accept)+len(t.reject) > 0 || t.level >= 0 || t.list {
		return errors.New("--accept, --reject, --level and --list go with --recursive")
	}
	return nil
}

// like reports whether one of the patterns is like a path, or its last part.
func like(patterns []string, rel string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		name := rel
		if !strings.Contains(p, "/") {
			name = path.Base(rel)
		}
		ok, _ := path.Match(p, name) // check has looked at it
		return ok
	})
}

func (t *tree) check(d *download) error {
	for _, p := range slices.Concat(t.accept, t.reject) {
		if _, err := path.Match(p, ""); err != nil {
			return fmt.Errorf("%q is no pattern such as *.bin", p)
		}
	}
	switch {
	case d.Digest != "" || d.span != "":
		return errors.New("--digest and --range are of one file, and do not go with --recursive")
	case d.output == "-":
		return errors.New("many files cannot go to the standard output: name a folder with -O")
	case t.at < 1:
		return errors.New("--files-at-a-time must be 1 or more")
	}
	return nil
}

// find lists what is to be downloaded.
func (t *tree) find(ctx context.Context, d *download) ([]found, error) {
	u, err := url.Parse(d.URL)
	if err != nil {
		return nil, fmt.Errorf("%w: the URL cannot be read", file.ErrSpec)
	}
	l := lister{header: d.Header, depth: t.level, skips: func(rel string) bool { return like(t.reject, rel) }}
	switch u.Scheme {
	case "s3":
		store, err := d.s3.store(ctx)
		if err != nil {
			return nil, err
		}
		err = l.listStore(ctx, store, d.URL)
		if err != nil {
			return nil, err
		}
	case "http", "https":
		if l.client, err = d.access.open(origin.Repo{Host: u.Host}, false, d.log); err != nil {
			return nil, err
		}
		defer l.client.Close()
		if err := l.listWeb(ctx, u); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("%w: folders are at http://, https:// or s3://", file.ErrSpec)
	}
	files := slices.DeleteFunc(l.files, func(f found) bool {
		return len(t.accept) > 0 && !like(t.accept, f.Path) || like(t.reject, f.Path)
	})
	slices.SortFunc(files, func(a, b found) int { return strings.Compare(a.Path, b.Path) })
	return files, nil
}

// run downloads a tree.
func (t *tree) run(ctx context.Context, d *download, asJSON, quiet bool) error {
	if err := t.check(d); err != nil {
		return err
	}
	files, err := t.find(ctx, d)
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return fmt.Errorf("%w: there are no such files below %s", origin.ErrNotFound, shown(d.URL))
	}
	if t.list {
		return t.print(d, files, asJSON)
	}
	if d.output == "" {
		d.output = path.Base(strings.TrimSuffix(d.URL, "/"))
	}
	if fi, err := os.Stat(d.output); err == nil && !fi.IsDir() {
		return fmt.Errorf("%w: %s is there and is no folder", errOutput, d.output)
	}
	return t.all(ctx, d, files, asJSON, quiet)
}

func (t *tree) print(d *download, files []found, asJSON bool) error {
	if asJSON {
		return terminal.JSON(d.out, files)
	}
	for _, f := range files {
		if _, err := fmt.Fprintln(d.out, f.Path); err != nil {
			return err
		}
	}
	return nil
}

// all downloads files. It goes on where one fails.
func (t *tree) all(ctx context.Context, d *download, files []found, asJSON, quiet bool) error {
	var mu sync.Mutex // guards what follows
	var failed []error
	done := 0
	var group errgroup.Group
	group.SetLimit(t.at)
	for _, f := range files {
		group.Go(func() error {
			one := &download{
				Spec:   file.Spec{URL: f.URL, Header: d.Header, Tag: d.Tag, Filter: d.Filter},
				output: filepath.Join(d.output, filepath.FromSlash(f.Path)), socket: d.socket, limit: d.limit,
				access: d.access, s3: d.s3, out: d.out, log: d.log, direct: d.direct,
			}
			err := one.into(ctx)
			mu.Lock()
			defer mu.Unlock()
			done++
			d.show.Show(fmt.Sprintf("%d of %d files", done, len(files)))
			if err == nil {
				d.show.Show("")
				err = one.report(asJSON, quiet)
			}
			if err != nil {
				failed = append(failed, fmt.Errorf("%s: %w", f.Path, err))
			}
			return nil
		})
	}
	_ = group.Wait() // failures were noted
	d.show.Show("")
	if len(failed) > 0 {
		return fmt.Errorf("%d of %d files did not come: %w", len(failed), len(files), errors.Join(failed...))
	}
	return nil
}

// into downloads a file into its folder, which it makes.
func (d *download) into(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(d.output), 0o777); err != nil {
		return fmt.Errorf("%w: %w", errOutput, err)
	}
	return d.run(ctx)
}
