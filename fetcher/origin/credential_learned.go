package origin

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

const (
	maxLearned     = 1024 // repositories
	maxLearnedEach = 4    // credentials of one
)

// Learned keeps, in memory only, credentials that others used: a pull secret
// that came with an image, a token that a client of the mirror sent. The zero
// value is ready.
type Learned struct {
	mu sync.Mutex
	m  map[Repo][]learned // newest first; guarded by mu
}

// learned is one credential as Export writes it.
type learned struct {
	Repo       Repo
	Credential secret
	Added      time.Time
	Expires    time.Time
}

// secret is a Credential whose secrets are written.
type secret Credential

// Add remembers a credential for a repository, or with an empty Path for a
// whole host. It is forgotten at expires, unless that is zero; one that is known for
// longer stays so.
func (l *Learned) Add(r Repo, c Credential, expires time.Time) {
	if c.empty() {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	e := learned{Repo: r, Credential: secret(c), Added: time.Now(), Expires: expires}
	for _, o := range l.m[r] {
		if Credential(o.Credential).same(c) && !e.Expires.IsZero() && (o.Expires.IsZero() || o.Expires.After(e.Expires)) {
			e.Expires = o.Expires
		}
	}
	l.add(e)
}

// Forget forgets a credential, unless it is known for good.
func (l *Learned) Forget(r Repo, c Credential) {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := slices.DeleteFunc(l.m[r], func(o learned) bool { return Credential(o.Credential).same(c) && !o.Expires.IsZero() })
	if len(list) == 0 {
		delete(l.m, r)
	} else {
		l.m[r] = list
	}
}

func (l *Learned) add(e learned) {
	if l.m == nil {
		l.m = map[Repo][]learned{}
	}
	list := slices.DeleteFunc(l.m[e.Repo], func(o learned) bool { return Credential(o.Credential).same(Credential(e.Credential)) })
	list = slices.Insert(list, 0, e)
	l.m[e.Repo] = list[:min(len(list), maxLearnedEach)]
	if len(l.m) > maxLearned {
		oldest := slices.MinFunc(slices.Collect(maps.Values(l.m)), func(a, b []learned) int { return a[0].Added.Compare(b[0].Added) })
		delete(l.m, oldest[0].Repo)
	}
}

// Lookup returns what is known of the repository, then of its host.
func (l *Learned) Lookup(_ context.Context, r Repo) ([]Credential, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	var out []Credential
	for _, k := range []Repo{r, {Host: r.Host}} {
		for _, e := range l.m[k] {
			if e.Expires.IsZero() || now.Before(e.Expires) {
				out = append(out, Credential(e.Credential))
			}
		}
	}
	return out, nil
}

// Export returns all that is known, secrets included, for Import in another
// process. It must be kept as a secret.
func (l *Learned) Export() ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := slices.Concat(slices.Collect(maps.Values(l.m))...)
	slices.SortFunc(all, func(a, b learned) int {
		return cmp.Or(a.Added.Compare(b.Added), cmp.Compare(a.Repo.String(), b.Repo.String()))
	})
	data, err := json.Marshal(all)
	if err != nil {
		return nil, fmt.Errorf("origin: export credentials: %w", err)
	}
	return data, nil
}

// Import adds what Export returned.
func (l *Learned) Import(data []byte) error {
	var all []learned
	if err := json.Unmarshal(data, &all); err != nil {
		return fmt.Errorf("origin: import credentials: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range all {
		l.add(e)
	}
	return nil
}
