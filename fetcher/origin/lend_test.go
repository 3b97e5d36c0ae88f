package origin_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin/origintest"
)

// TestLend holds that a token opens a private repository to another client, that
// nothing else is ever lent, and that a new one replaces one that expired.
func TestLend(t *testing.T) {
	private := map[string][]string{repoPath: {"alice"}}
	public := map[string][]string{repoPath: {"", "alice"}}
	for _, tt := range []struct {
		name  string
		opts  origintest.Options
		creds known
		lends bool
	}{
		{"earned", origintest.Options{Auth: origintest.Bearer, Readers: private}, known{alice}, true},
		{"password", origintest.Options{Auth: origintest.Basic, Readers: private}, known{alice}, false},
		{"anonymous", origintest.Options{Auth: origintest.Bearer, Readers: public}, nil, false},
		{"no login", origintest.Options{}, known{alice}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.opts.Users = users
			reg := origintest.New(t, tt.opts)
			d := reg.AddBlob(repoPath, data(2, 5000))
			c := client(t, origin.Config{Credentials: tt.creds})
			if token := c.Token(repo(reg)); token != "" {
				t.Error("a token is lent before anything was read")
			}
			token, err := c.NewToken(t.Context(), repo(reg), d)
			if err != nil || (token != "") != tt.lends || token != c.Token(repo(reg)) {
				t.Fatalf("got a token of %d bytes, %v; is one lent: %v", len(token), err, tt.lends)
			}
			if !tt.lends {
				return
			}
			// An entry of hosts.toml for the registry itself comes before it.
			dir := hostsDir(t, strings.Replace(reg.Host(), ":", "_", 1)+"_", fmt.Sprintf("[host.%q]\n  capabilities = [\"pull\"]\n", reg.URL()))
			listed := client(t, origin.Config{Credentials: tt.creds, HostsDir: dir})
			if _, err := listed.NewToken(t.Context(), repo(reg), d); err != nil || listed.Token(repo(reg)) == "" {
				t.Error("with an entry in hosts.toml nothing is lent:", err)
			}
			var learned origin.Learned
			learned.Add(repo(reg), origin.Credential{RegistryToken: token}, time.Time{})
			other := client(t, origin.Config{Credentials: &learned})
			if _, err := get(other, repo(reg), d, 0, 10); err != nil {
				t.Error("with the token:", err)
			}
			if token := other.Token(repo(reg)); token != "" {
				t.Error("a token that was lent is lent on")
			}
		})
	}
}
