package origin_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin/origintest"
)

var (
	alice = origin.Credential{Username: "alice", Password: "s3cret:with:colons", Source: "alice's"}
	users = map[string]string{"alice": "s3cret:with:colons", "bob": "hunter2"}
)

func TestLogin(t *testing.T) {
	private := map[string][]string{repoPath: {"alice", "identity-1"}}
	public := map[string][]string{repoPath: {"", "alice"}}
	wrong := origin.Credential{Username: "alice", Password: "old", Source: "an old file"}
	stranger := origin.Credential{Username: "bob", Password: "hunter2", Source: "bob's"}
	identity := origin.Credential{IdentityToken: "identity-1", Source: "identity"}
	for _, tt := range []struct {
		name  string
		opts  origintest.Options
		creds known
		want  error
		// logins is how many token requests are made.
		logins int
	}{
		{"none asked", origintest.Options{}, known{alice}, nil, 0},
		{"basic", origintest.Options{Auth: origintest.Basic}, known{alice}, nil, 0},
		{"basic, wrong first", origintest.Options{Auth: origintest.Basic}, known{wrong, alice}, nil, 0},
		{"basic, none known", origintest.Options{Auth: origintest.Basic}, nil, origin.ErrUnauthorized, 0},
		{"basic, identity only", origintest.Options{Auth: origintest.Basic}, known{identity}, origin.ErrUnauthorized, 0},
		{"bearer", origintest.Options{Auth: origintest.Bearer, Readers: private}, known{alice}, nil, 1},
		{"bearer by POST", origintest.Options{Auth: origintest.Bearer, Readers: private, PostOnly: true}, known{alice}, nil, 2},
		{"bearer with identity token", origintest.Options{Auth: origintest.Bearer, Readers: private}, known{identity}, nil, 1},
		{"bearer, anonymous", origintest.Options{Auth: origintest.Bearer, Readers: public}, nil, nil, 1},
		{"bearer, wrong then anonymous", origintest.Options{Auth: origintest.Bearer, Readers: public}, known{wrong}, nil, 2},
		{"bearer, wrong then right", origintest.Options{Auth: origintest.Bearer, Readers: private}, known{wrong, alice}, nil, 2},
		{"bearer, stranger then right", origintest.Options{Auth: origintest.Bearer, Readers: private}, known{stranger, alice}, nil, 2},
		{"bearer, stranger only", origintest.Options{Auth: origintest.Bearer, Readers: private}, known{stranger}, origin.ErrUnauthorized, 2},
		{"bearer, none known", origintest.Options{Auth: origintest.Bearer, Readers: private}, nil, origin.ErrUnauthorized, 1},
		{"bearer with redirect", origintest.Options{Auth: origintest.Bearer, Readers: private, Redirect: true}, known{alice}, nil, 1},
		{"basic with redirect", origintest.Options{Auth: origintest.Basic, Redirect: true}, known{alice}, nil, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.opts.Users, tt.opts.IdentityTokens = users, []string{"identity-1"}
			reg := origintest.New(t, tt.opts)
			want := data(2, 5000)
			d := reg.AddBlob(repoPath, want)
			c := client(t, origin.Config{Credentials: tt.creds})
			got, err := get(c, repo(reg), d, 100, 1000)
			if !errors.Is(err, tt.want) || tt.want == nil && string(got) != string(want[100:1100]) {
				t.Fatalf("got %d bytes, %v; want %v", len(got), err, tt.want)
			}
			if n := reg.Count("token"); n != tt.logins {
				t.Errorf("%d token requests, want %d", n, tt.logins)
			}
			if err != nil {
				silent(t, err)
				return
			}
			before := len(reg.Requests())
			mustGet(t, c, repo(reg), d, 0, 10, want[:10])
			if n := len(reg.Requests()) - before; n != 1 {
				t.Errorf("a second range took %d requests, want 1", n)
			}
		})
	}
}

// silent checks that an error tells no secret.
func silent(t *testing.T, err error) {
	t.Helper()
	for _, s := range []string{"s3cret", "hunter2", "identity-1", "Basic ", "Bearer ", "token-"} {
		if strings.Contains(err.Error(), s) {
			t.Errorf("%q has the secret %q", err, s)
		}
	}
}

func TestDeniedSaysWhatToDo(t *testing.T) {
	reg := origintest.New(t, origintest.Options{Auth: origintest.Bearer, Users: users, Readers: map[string][]string{repoPath: {"bob"}}})
	d := reg.AddBlob(repoPath, data(2, 50))
	_, err := get(client(t, origin.Config{Credentials: known{alice}}), repo(reg), d, 0, 10)
	for _, part := range []string{reg.Host(), repoPath, "alice's", "anonymous access", "status 401", "UNAUTHORIZED", "docker login"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%v does not say %q", err, part)
		}
	}
}

func TestTokenExpiresBetweenRanges(t *testing.T) {
	for _, status := range []int{http.StatusUnauthorized, http.StatusForbidden} {
		reg := origintest.New(t, origintest.Options{Auth: origintest.Bearer, Users: users, ExpiredStatus: status})
		want := data(2, 5000)
		d := reg.AddBlob(repoPath, want)
		c := client(t, origin.Config{Credentials: known{alice}})
		for off := int64(0); off < 5000; off += 1000 {
			mustGet(t, c, repo(reg), d, off, 1000, want[off:off+1000])
			reg.ExpireTokens()
		}
		if n := reg.Count("token"); n != 5 {
			t.Errorf("status %d: %d token requests, want one per range", status, n)
		}
	}
}

func TestTokenRenewedBeforeItExpires(t *testing.T) {
	reg := origintest.New(t, origintest.Options{Auth: origintest.Bearer, Users: users, TokenLife: time.Hour})
	want := data(2, 5000)
	d := reg.AddBlob(repoPath, want)
	c := client(t, origin.Config{Credentials: known{alice}})
	for _, tt := range []struct {
		passed time.Duration
		tokens int
	}{
		{0, 1},
		{59 * time.Minute, 1},
		{59*time.Minute + 40*time.Second, 2},
		{60 * time.Minute, 2},
	} {
		c.SetClock(func() time.Time { return time.Now().Add(tt.passed) })
		mustGet(t, c, repo(reg), d, 0, 10, want[:10])
		if n := reg.Count("token"); n != tt.tokens {
			t.Errorf("%d tokens after %s, want %d", n, tt.passed, tt.tokens)
		}
	}
	refused := 0
	for _, q := range reg.Requests() {
		if q.Status == http.StatusUnauthorized {
			refused++
		}
	}
	if refused != 1 {
		t.Errorf("%d requests were refused, want the first only", refused)
	}
}

func TestPasswordChanged(t *testing.T) {
	reg := origintest.New(t, origintest.Options{Auth: origintest.Basic, Users: users})
	want := data(2, 5000)
	d := reg.AddBlob(repoPath, want)
	learned := &origin.Learned{}
	learned.Add(repo(reg), alice, time.Time{})
	c := client(t, origin.Config{Credentials: learned})
	mustGet(t, c, repo(reg), d, 0, 10, want[:10])
	reg.SetUsers(map[string]string{"alice": "new"})
	if _, err := get(c, repo(reg), d, 0, 10); !errors.Is(err, origin.ErrUnauthorized) {
		t.Fatalf("got %v, want ErrUnauthorized", err)
	}
	learned.Add(repo(reg), origin.Credential{Username: "alice", Password: "new"}, time.Time{})
	mustGet(t, c, repo(reg), d, 0, 10, want[:10])
}

// TestOneLogin starts many readers at once, with no token and with one that
// has expired.
func TestOneLogin(t *testing.T) {
	reg := origintest.New(t, origintest.Options{Auth: origintest.Bearer, Users: users})
	want := data(2, 5000)
	d := reg.AddBlob(repoPath, want)
	c := client(t, origin.Config{Credentials: known{alice}})
	for _, round := range []string{"first", "expired"} {
		reg.Reset()
		var g errgroup.Group
		for range 32 {
			g.Go(func() error {
				_, err := get(c, repo(reg), d, 0, 100)
				return err
			})
		}
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
		if n := reg.Count("token"); n != 1 {
			t.Errorf("%s: %d token requests, want 1", round, n)
		}
		reg.ExpireTokens()
	}
}

// TestLoginOutlivesItsFirstReader checks that a reader who gives up does not
// take the login of the others along.
func TestLoginOutlivesItsFirstReader(t *testing.T) {
	reg := origintest.New(t, origintest.Options{Auth: origintest.Bearer, Users: users})
	want := data(2, 5000)
	d := reg.AddBlob(repoPath, want)
	asked := make(chan struct{})
	leave := make(chan struct{})
	c := client(t, origin.Config{Credentials: slowCredentials{asked: asked, leave: leave}})
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() {
		_, err := c.Blob(ctx, repo(reg), d, 0, 10)
		first <- err
	}()
	<-asked
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("the first reader got %v, want context.Canceled", err)
	}
	close(leave)
	mustGet(t, c, repo(reg), d, 0, 10, want[:10])
	if n := reg.Count("token"); n != 1 {
		t.Errorf("%d token requests, want 1", n)
	}
}

type slowCredentials struct{ asked, leave chan struct{} }

func (s slowCredentials) Lookup(ctx context.Context, _ origin.Repo) ([]origin.Credential, error) {
	close(s.asked)
	select {
	case <-s.leave:
		return []origin.Credential{alice}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func TestCloseEndsLogin(t *testing.T) {
	reg := origintest.New(t, origintest.Options{Auth: origintest.Bearer, Users: users})
	d := reg.AddBlob(repoPath, data(2, 50))
	asked := make(chan struct{})
	c := client(t, origin.Config{Credentials: slowCredentials{asked: asked}})
	var err error
	var wg sync.WaitGroup
	wg.Go(func() { _, err = c.Blob(context.Background(), repo(reg), d, 0, 10) })
	<-asked
	c.Close()
	wg.Wait()
	if err == nil {
		t.Error("Blob succeeded without its login")
	}
}

func TestTokenServerUnavailable(t *testing.T) {
	for _, tt := range []struct {
		fault origintest.Fault
		check func(error) bool
	}{
		{origintest.Fault{Status: 429, RetryAfter: "11"}, unavailable(429, 11*time.Second, 11*time.Second)},
		{origintest.Fault{Status: 503}, unavailable(503, 0, 0)},
		{origintest.Fault{Hang: true}, unavailable(0, 0, 0)},
	} {
		reg := origintest.New(t, origintest.Options{Auth: origintest.Bearer, Users: users})
		want := data(2, 50)
		d := reg.AddBlob(repoPath, want)
		reg.Fail(origintest.TokenServer, tt.fault)
		c := client(t, origin.Config{Credentials: known{alice}, HeaderTimeout: 200 * time.Millisecond})
		_, err := get(c, repo(reg), d, 0, 10)
		if err == nil || !tt.check(err) {
			t.Errorf("%+v: got %v", tt.fault, err)
		}
		reg.Heal()
		mustGet(t, c, repo(reg), d, 0, 10, want[:10])
	}
}

func TestRegistryToken(t *testing.T) {
	reg := origintest.New(t, origintest.Options{Auth: origintest.Bearer, Users: users})
	want := data(2, 50)
	d := reg.AddBlob(repoPath, want)
	// A token that another client has earned.
	mustGet(t, client(t, origin.Config{Credentials: known{alice}}), repo(reg), d, 0, 10, want[:10])
	var header string
	for _, q := range reg.Requests() {
		if h := q.Header.Get("Authorization"); q.Kind == "blob" && h != "" {
			header = h
		}
	}
	reg.Reset()
	token := origin.Credential{RegistryToken: strings.TrimPrefix(header, "Bearer ")}
	mustGet(t, client(t, origin.Config{Credentials: known{token}}), repo(reg), d, 0, 10, want[:10])
	if n := reg.Count("token"); n != 0 {
		t.Errorf("%d token requests, want none", n)
	}
}

// TestTokenPerRepository checks that one repository's token is not sent for
// another.
func TestTokenPerRepository(t *testing.T) {
	reg := origintest.New(t, origintest.Options{Auth: origintest.Bearer, Users: users})
	want := data(2, 50)
	c := client(t, origin.Config{Credentials: known{alice}})
	var d digest.Digest
	for _, path := range []string{"a/one", "a/two"} {
		d = reg.AddBlob(path, want)
		mustGet(t, c, origin.Repo{Host: reg.Host(), Path: path}, d, 0, 10, want[:10])
	}
	sent := map[string]string{}
	for _, q := range reg.Requests() {
		if h := q.Header.Get("Authorization"); q.Kind == "blob" && h != "" {
			sent[h] += q.URL
		}
	}
	if len(sent) != 2 {
		t.Errorf("tokens were sent like this: %v", sent)
	}
}
