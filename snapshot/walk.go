package snapshot

import (
	"context"
	"regexp"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/containerd/v2/pkg/filters"
	"github.com/containerd/errdefs"
)

// Walk calls fn for each snapshot that matches any of the filters. The filter
// by which containerd looks for a chain ID, at every layer of every pull, is
// answered from the catalog.
func (s *Snapshotter) Walk(ctx context.Context, fn snapshots.WalkFunc, fs ...string) error {
	filter, err := filters.ParseAll(fs...)
	if err != nil || s.catalog.empty() { // a new database has nothing to walk
		return err
	}
	err = s.ms.WithTransaction(ctx, false, func(ctx context.Context) error {
		if ref, ok := refOf(fs); ok {
			return s.walkRef(ctx, fn, ref, filter)
		}
		return storage.WalkInfo(ctx, fn, fs...)
	})
	return edge(err)
}

var refFilter = regexp.MustCompile(`^labels\."containerd\.io/snapshot\.ref"==("[^"\\]+"|[^\s,"]+)(,|$)`)

// refOf returns the chain ID that all matches of a filter have as label.
func refOf(fs []string) (string, bool) {
	if len(fs) != 1 {
		return "", false
	}
	m := refFilter.FindStringSubmatch(fs[0])
	if m == nil {
		return "", false
	}
	if !strings.HasPrefix(m[1], `"`) {
		return m[1], true
	}
	ref, err := strconv.Unquote(m[1])
	return ref, err == nil
}

func (s *Snapshotter) walkRef(ctx context.Context, fn snapshots.WalkFunc, ref string, filter filters.Filter) error {
	for _, name := range s.catalog.refs(ref) {
		_, info, _, err := storage.GetInfo(ctx, name)
		if errdefs.IsNotFound(err) {
			continue // removed since
		}
		if err != nil {
			return err
		}
		if filter.Match(fields(info)) {
			if err := fn(ctx, info); err != nil {
				return err
			}
		}
	}
	return nil
}

// fields makes a snapshot's info readable for filters, as containerd's own
// snapshotters do.
func fields(info snapshots.Info) filters.Adaptor {
	return filters.AdapterFunc(func(path []string) (string, bool) {
		if len(path) == 0 {
			return "", false
		}
		switch path[0] {
		case "kind":
			return strings.ToLower(info.Kind.String()), info.Kind != snapshots.KindUnknown
		case "name":
			return info.Name, true
		case "parent":
			return info.Parent, true
		case "labels":
			v, ok := info.Labels[strings.Join(path[1:], ".")]
			return v, ok
		}
		return "", false
	})
}
