package job

import (
	"context"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/registry"
)

// Resolve asks the registry, or the file's server, which blobs a job would be about, now.
func (r *Runner) Resolve(ctx context.Context, q Request) (registry.Image, error) {
	if q.File != nil {
		_, one, err := r.find(ctx, *q.File)
		return one, err
	}
	return r.Registry.Repo(q.Ref, q.Credential).Resolve(ctx, r.platforms(q.Platforms))
}

// platforms are those of an index that count.
func (r *Runner) platforms(asked []string) []string {
	if len(asked) == 0 {
		return r.Platforms
	}
	return asked
}
