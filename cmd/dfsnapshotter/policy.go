package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
	"github.com/dfsnapshotter/dfsnapshotter/snapshot"
)

// ImageConfig is the policy for the images of some repositories.
type ImageConfig struct {
	Match string `toml:"match"`
	Mode  string `toml:"mode"`
}

func validateImages(list []ImageConfig, bad func(key, format string, args ...any)) {
	first := map[string]int{}
	for i, c := range list {
		key := fmt.Sprintf("image %d", i+1)
		if why := wrongPattern(c.Match); why != "" {
			bad(key, "match %s", why)
		}
		if !slices.Contains(snapshot.Modes, snapshot.Mode(c.Mode)) {
			bad(key, "mode %q is none of 'lazy', 'fill' and 'eager'", c.Mode)
		}
		if j, ok := first[c.Match]; ok {
			bad(key, "match %q never counts: image %d has it, and the first that matches counts", c.Match, j)
			continue
		}
		first[c.Match] = i + 1
	}
}

// wrongPattern says what is wrong with a pattern of repositories.
func wrongPattern(p string) string {
	switch last := p[strings.LastIndex(p, "/")+1:]; {
	case p == "":
		return "is empty: set a repository such as 'ml/*' or 'registry.example/ml/*', or '*' for all"
	case strings.ContainsAny(last, ":@"):
		return fmt.Sprintf("%q names a tag or digest, but it is for whole repositories: leave it out", p)
	case strings.ContainsAny(p, " \t\n"):
		return fmt.Sprintf("%q holds white space, which no name of an image does", p)
	}
	return ""
}

// wrongTrust says what is wrong with a pattern of repositories that are trusted.
// It begins with the registry, or anybody could give a repository that name.
func wrongTrust(p string) string {
	registry, _, _ := strings.Cut(p, "/")
	if why := wrongPattern(p); why != "" {
		return why
	}
	if registry != "localhost" && registry != "*" && !strings.ContainsAny(registry, ".:") {
		return fmt.Sprintf("%q names no registry: write 'registry.example/%s', or 'docker.io/library/%s'", p, p, p)
	}
	return ""
}

// trusts returns what tells whether the repository of an image is one of those
// that patterns name; nil if there are none.
func trusts(patterns []string) func(origin.Repo) bool {
	if len(patterns) == 0 {
		return nil
	}
	return func(r origin.Repo) bool {
		return slices.ContainsFunc(patterns, func(p string) bool { return like(p, r.String()) })
	}
}

// modes returns what tells the mode of a repository's images.
func modes(list []ImageConfig) func(origin.Repo) snapshot.Mode {
	return func(r origin.Repo) snapshot.Mode {
		for _, c := range list {
			if matches(c.Match, r) {
				return snapshot.Mode(c.Mode)
			}
		}
		return snapshot.Lazy
	}
}

// matches compares a pattern with a repository's name as people write it: with
// its registry, without, and for Docker's official images without "library/".
func matches(pattern string, r origin.Repo) bool {
	return like(pattern, r.Host+"/"+r.Path) || like(pattern, r.Path) ||
		r.Host == "docker.io" && like(pattern, strings.TrimPrefix(r.Path, "library/"))
}

// like reports whether s is what pattern says, in which * is any text.
func like(pattern, s string) bool {
	parts := strings.Split(pattern, "*")
	s, ok := strings.CutPrefix(s, parts[0])
	if len(parts) == 1 {
		return ok && s == ""
	}
	last := len(parts) - 1
	for _, p := range parts[1:last] {
		if !ok {
			return false
		}
		_, s, ok = strings.Cut(s, p)
	}
	return ok && strings.HasSuffix(s, parts[last])
}
