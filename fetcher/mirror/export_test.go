package mirror

import (
	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
)

// Grants is what is remembered of who may read what.
type Grants = grants

var NewGrants = newGrants

func (g *grants) Add(who string, repo origin.Repo, d digest.Digest, size int64) {
	g.add(who, repo, d, size)
}

func (g *grants) Size(who string, repo origin.Repo, d digest.Digest) (int64, bool) {
	return g.size(who, repo, d)
}

const (
	GrantLife = grantLife
	MaxGrants = maxGrants
)

// Span is the bytes [Off, Off+N).
type Span struct{ Off, N int64 }

// ParseRange reads a Range header.
func ParseRange(header string, size int64) (out []Span, err error) {
	spans, err := parseRange(header, size)
	for _, s := range spans {
		out = append(out, Span{s.off, s.n})
	}
	return out, err
}

// Path is what a path of the registry API means.
type Path struct{ Kind, Repo, Ref, Digest, Rest string }

// ParsePath reads a path.
func ParsePath(p string) (Path, error) {
	t, err := parsePath(p)
	return Path{string(t.kind), t.repo, t.ref, t.digest.String(), t.path}, err
}

// Status is that of the answer which tells of err.
func Status(err error) int { return refusalOf(err).status }
