package s3_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin/s3"
)

// metadata is where a machine gets the credentials of its role.
func metadata(t *testing.T, answer http.HandlerFunc) {
	t.Helper()
	server := httptest.NewServer(answer)
	t.Cleanup(server.Close)
	t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", server.URL+"/role")
}

// gives answers with credentials that are good for a while.
func gives(w http.ResponseWriter, key, secret string, validFor time.Duration) {
	fmt.Fprintf(w, `{"AccessKeyId": %q, "SecretAccessKey": %q, "Token": "", "Expiration": %q}`,
		key, secret, time.Now().Add(validFor).UTC().Format(time.RFC3339Nano))
}

// TestRole reads a store with the credentials of a role.
func TestRole(t *testing.T) {
	nobody(t)
	url := gateway(t, map[string]string{"a/b": "text"})
	metadata(t, func(w http.ResponseWriter, _ *http.Request) { gives(w, key, secret, time.Hour) })
	s := open(t, s3.Config{Endpoint: url})
	reads(t, s, "a/b", "text")
}

// TestRoleExpires asks for credentials again when the old ones are not good any more.
func TestRoleExpires(t *testing.T) {
	nobody(t)
	var asked atomic.Int64
	metadata(t, func(w http.ResponseWriter, _ *http.Request) {
		n := asked.Add(1)
		gives(w, fmt.Sprint("key", n), secret, map[bool]time.Duration{true: -time.Minute, false: time.Hour}[n == 1])
	})
	s := open(t, s3.Config{Endpoint: "http://store.invalid", Region: region})
	for range 3 {
		u, err := s.Sign(t.Context(), "bucket", "a")
		if err != nil {
			t.Fatal(err)
		}
		if by := u.Query().Get("X-Amz-Credential"); !strings.HasPrefix(by, "key2/") {
			t.Errorf("signed by %q", by)
		}
	}
	if n := asked.Load(); n != 2 {
		t.Errorf("asked %d times", n)
	}
}

// TestRoleRefused says so when the role gives nothing, and is not anonymous then.
func TestRoleRefused(t *testing.T) {
	nobody(t)
	metadata(t, func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no role", http.StatusNotFound) })
	if _, err := s3.Open(t.Context(), s3.Config{Endpoint: "http://store.invalid"}); !errors.Is(err, origin.ErrUnauthorized) || !strings.Contains(err.Error(), "role") {
		t.Errorf("no role: %v", err)
	}
	t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1:1/role")
	var down *origin.UnavailableError
	if _, err := s3.Open(t.Context(), s3.Config{Endpoint: "http://store.invalid"}); !errors.As(err, &down) {
		t.Errorf("nobody there: %v", err)
	}
	keys(t) // they come first: nobody is asked
	open(t, s3.Config{Endpoint: "http://store.invalid"})
}

// TestSlowRole ends with who asks, at the start and when credentials are asked for again.
func TestSlowRole(t *testing.T) {
	nobody(t)
	var slow atomic.Bool
	arrived, over := make(chan struct{}, 1), make(chan struct{})
	metadata(t, func(w http.ResponseWriter, r *http.Request) {
		if !slow.Load() {
			gives(w, key, secret, -time.Minute)
			return
		}
		arrived <- struct{}{}
		select {
		case <-r.Context().Done():
		case <-over: // the client lets go of a request for another time later: see bounded
		}
	})
	t.Cleanup(func() { close(over) }) // before the server closes
	ends := func(what string, do func(context.Context) error) {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		done := make(chan error, 1)
		go func() { done <- do(ctx) }()
		<-arrived
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", what, err)
		}
	}
	c := s3.Config{Endpoint: "http://store.invalid", Region: region}
	s := open(t, c)
	slow.Store(true)
	ends("Sign", func(ctx context.Context) error { _, err := s.Sign(ctx, "bucket", "a"); return err })
	ends("Open", func(ctx context.Context) error { _, err := s3.Open(ctx, c); return err })
}

// silent is a source of credentials that never gives any.
type silent struct{ credentials.Static }

func (*silent) RetrieveWithCredContext(c *credentials.CredContext) (credentials.Value, error) {
	<-c.Context.Done()
	return credentials.Value{}, c.Context.Err()
}

// TestLoginEnds has nobody end it: the client asks so when it lists.
func TestLoginEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for _, ctx := range []context.Context{nil, t.Context()} {
			begun := time.Now()
			_, err := s3.Bounded(&silent{}).RetrieveWithCredContext(&credentials.CredContext{Context: ctx})
			var down *origin.UnavailableError
			if !errors.As(err, &down) || time.Since(begun) != s3.LoginFor {
				t.Errorf("after %s: %v", time.Since(begun), err)
			}
		}
	})
}
