package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
	"github.com/dfsnapshotter/dfsnapshotter/snapshot"
)

func TestModes(t *testing.T) {
	t.Parallel()
	mode := modes([]ImageConfig{
		{"ml/*-small", "lazy"},
		{"ml/*", "fill"},
		{"db.example:5000/*/postgres", "eager"},
		{"python", "fill"},
		{"gcr.io/*", "eager"},
	})
	want := map[origin.Repo]snapshot.Mode{
		{Host: "a.example", Path: "ml/llama"}:               "fill",
		{Host: "a.example", Path: "ml/x/y"}:                 "fill",
		{Host: "a.example", Path: "ml/llama-small"}:         "lazy",
		{Host: "a.example", Path: "ml"}:                     "lazy",
		{Host: "a.example", Path: "xml/llama"}:              "lazy",
		{Host: "db.example:5000", Path: "team/postgres"}:    "eager",
		{Host: "db.example:5000", Path: "a/b/postgres"}:     "eager",
		{Host: "db.example:5000", Path: "postgres"}:         "lazy",
		{Host: "db.example:5000", Path: "team/postgres-ha"}: "lazy",
		{Host: "other.example", Path: "team/postgres"}:      "lazy",
		{Host: "docker.io", Path: "library/python"}:         "fill",
		{Host: "docker.io", Path: "x/python"}:               "lazy",
		{Host: "a.example", Path: "library/python"}:         "lazy",
		{Host: "gcr.io", Path: "anything/at/all"}:           "eager",
	}
	got := map[origin.Repo]snapshot.Mode{}
	for r := range want {
		got[r] = mode(r)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestTrusts(t *testing.T) {
	t.Parallel()
	trust := trusts([]string{"a.example/team/*", "docker.io/library/python"})
	for r, want := range map[origin.Repo]bool{
		{Host: "a.example", Path: "team/app"}:            true,
		{Host: "a.example", Path: "team/app/web"}:        true,
		{Host: "a.example", Path: "teams/app"}:           false,
		{Host: "evil.example", Path: "team/app"}:         false,
		{Host: "evil.example", Path: "a.example/team/x"}: false,
		{Host: "docker.io", Path: "library/python"}:      true,
		{Host: "evil.example", Path: "python"}:           false,
	} {
		if got := trust(r); got != want {
			t.Errorf("trust of %s: %v, want %v", r, got, want)
		}
	}
	if trusts(nil) != nil {
		t.Error("without patterns registries are asked")
	}
}

func TestLike(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pattern, s string
		want       bool
	}{
		{"*", "", true}, {"*", "a/b", true}, {"a", "a", true}, {"a", "ab", false}, {"a", "ba", false}, {"a*a", "a", false},
		{"a*a", "aa", true}, {"a*b*c", "a-b-b-c", true}, {"a*b*c", "a-c", false}, {"**", "x", true}, {"*ab", "aab", true}, {"a*b*b", "ab", false},
	} {
		if got := like(c.pattern, c.s); got != c.want {
			t.Errorf("like(%q, %q) = %v", c.pattern, c.s, got)
		}
	}
}
