package job

import (
	"context"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/registry"
)

// Resolve asks the registry which blobs a job for an image would be about, now.
func (r *Runner) Resolve(ctx context.Context, q Request) (registry.Image, error) {
	return r.Registry.Repo(q.Ref, q.Credential).Resolve(ctx, r.platforms(q.Platforms))
}

// platforms are those of an index that count.
func (r *Runner) platforms(asked []string) []string {
	if len(asked) == 0 {
		return r.Platforms
	}
	return asked
}
