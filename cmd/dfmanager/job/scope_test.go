package job

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/field"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/sight"
)

func TestScopeOf(t *testing.T) {
	t.Parallel()
	all := []sight.Host{{ID: "s1", Seed: true, Share: true}, {ID: "s2", Seed: true}, {ID: "manager"}}
	for i := range 10 {
		all = append(all, sight.Host{ID: fmt.Sprint("h", i), Addr: fmt.Sprintf("192.0.2.%d:65002", i), Share: true})
	}
	for name, c := range map[string]struct {
		scope         Scope
		want, missing int
		holds         string
	}{
		"seeds":          {Scope{Kind: AllSeeds}, 2, 0, "s2"},
		"half the seeds": {Scope{Kind: AllSeeds, Percent: 50}, 1, 0, ""},
		"all":            {Scope{Kind: AllPeers}, 12, 0, "h9"},
		"one percent":    {Scope{Kind: AllPeers, Percent: 1}, 1, 0, ""},
		"list":           {Scope{Kind: Listed, Hosts: []string{"h1", "192.0.2.2:65002", "h2", "h99"}}, 2, 1, "h2"},
	} {
		got, missing := c.scope.of(all, "7")
		if len(got) != c.want || len(missing) != c.missing || c.holds != "" && !slices.ContainsFunc(got, func(h sight.Host) bool { return h.ID == c.holds }) {
			t.Errorf("%s: %v, missing %v", name, got, missing)
		}
		again, _ := c.scope.of(reversed(all), "7")
		if diff := cmp.Diff(got, again); diff != "" && c.scope.Kind != Listed {
			t.Errorf("%s, the other way round: %s", name, diff)
		}
		if got := ScopeOf(c.scope.text()); cmp.Diff(c.scope, got) != "" {
			t.Errorf("%s is stored as %+v", name, got)
		}
	}
	some := Scope{Kind: AllPeers, Percent: 50}
	one, _ := some.of(all, "1")
	two, _ := some.of(all, "2")
	if cmp.Diff(one, two) == "" {
		t.Error("two jobs choose the same half")
	}
}

func reversed(all []sight.Host) []sight.Host {
	all = slices.Clone(all)
	slices.Reverse(all)
	return all
}

func TestScopeCheck(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		scope Scope
		wrong string
	}{
		{Scope{}, ""}, {Scope{Kind: OneSeed, Seconds: 86400}, ""}, {Scope{Kind: AllPeers, Percent: 100, Concurrent: 1000}, ""}, {Scope{Kind: Listed, Hosts: []string{"a"}}, ""},
		{Scope{Kind: "some"}, "scope"}, {Scope{Kind: Listed}, "hosts"}, {Scope{Hosts: []string{"a"}}, "hosts"}, {Scope{Kind: Listed, Hosts: make([]string, maxHosts+1)}, "hosts"},
		{Scope{Percent: 5}, "percentage"}, {Scope{Kind: AllPeers, Percent: 101}, "percentage"}, {Scope{Kind: AllPeers, Percent: -1}, "percentage"},
		{Scope{Concurrent: 1001}, "concurrent_hosts"}, {Scope{Seconds: -1}, "timeout_seconds"}, {Scope{Seconds: 86401}, "timeout_seconds"},
		{Scope{Layers: []string{digest.FromString("a").String()}}, ""}, {Scope{Layers: []string{"sha256:a"}}, "layers"}, {Scope{Layers: make([]string, maxLayers+1)}, "layers"},
	} {
		wrong := field.Errors{}
		c.scope.Check(wrong)
		var names []string
		for name := range wrong {
			names = append(names, name)
		}
		if strings.Join(names, " ") != c.wrong {
			t.Errorf("%+v: %v", c.scope, wrong)
		}
	}
	if (Scope{}).timeout(time.Minute) != time.Minute || (Scope{Seconds: 7}).timeout(time.Minute) != 7*time.Second || (Scope{}).text() != "" {
		t.Error("what holds without a word")
	}
}
