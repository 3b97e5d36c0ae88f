package s3_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin/s3"
)

// get reads an object by the address that the store's client gives it.
func get(t *testing.T, s *s3.Store, name string) (status int, text string) {
	t.Helper()
	u, err := s.Sign(t.Context(), "bucket", name)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Get(u.String())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func reads(t *testing.T, s *s3.Store, name, want string) {
	t.Helper()
	if status, text := get(t, s, name); status != http.StatusOK || text != want {
		t.Errorf("%s: status %d: %s", name, status, text)
	}
}

// TestList lists more than a store tells at once.
func TestList(t *testing.T) {
	nobody(t)
	objects, want := map[string]string{"other/a": ""}, []s3.Object(nil)
	for i := range 2100 {
		name := fmt.Sprintf("many/%04d", i)
		objects[name] = "x"
		want = append(want, s3.Object{Key: name, Size: 1})
	}
	url := gateway(t, objects)
	keys(t)
	s := open(t, s3.Config{Endpoint: url})
	got, err := s.List(t.Context(), "bucket", "many/", 5000)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got, err := s.List(t.Context(), "bucket", "", 1500); len(got) != 1501 || err != nil {
		t.Errorf("of more than it may: %d, %v", len(got), err)
	}
	if got, err := s.List(t.Context(), "bucket", "none/", 10); len(got) != 0 || err != nil {
		t.Errorf("of none: %v, %v", got, err)
	}
	if _, err := s.List(t.Context(), "no-bucket", "", 10); !errors.Is(err, origin.ErrNotFound) {
		t.Errorf("no bucket: %v", err)
	}
}

// TestRegion opens a store whose region is told, asked for, and wrong.
func TestRegion(t *testing.T) {
	nobody(t)
	url := gateway(t, map[string]string{"a": "text"})
	keys(t)
	for _, c := range []s3.Config{{Endpoint: url}, {Endpoint: url, Region: region}} {
		reads(t, open(t, c), "a", "text")
	}
	wrong := open(t, s3.Config{Endpoint: url, Region: "eu-west-1"})
	if status, text := get(t, wrong, "a"); status/100 != 4 || !strings.Contains(text, region) {
		t.Errorf("it reads in the wrong region: status %d: %s", status, text)
	}
	if _, err := wrong.List(t.Context(), "bucket", "", 10); err == nil || !strings.Contains(err.Error(), region) {
		t.Errorf("it lists in the wrong region: %v", err)
	}
	t.Setenv("AWS_SECRET_ACCESS_KEY", "another")
	if _, err := open(t, s3.Config{Endpoint: url}).List(t.Context(), "bucket", "", 10); !errors.Is(err, origin.ErrUnauthorized) {
		t.Errorf("it lists with a wrong secret: %v", err)
	}
}

// fake is a store that answers each listing so.
func fake(t *testing.T, answer http.HandlerFunc) *s3.Store {
	t.Helper()
	nobody(t)
	keys(t)
	server := httptest.NewServer(answer)
	t.Cleanup(server.Close)
	return open(t, s3.Config{Endpoint: server.URL, Region: region})
}

const (
	page = `<ListBucketResult><IsTruncated>%t</IsTruncated><Contents><Key>a</Key><Size>1</Size></Contents>%s</ListBucketResult>`
	next = `<NextContinuationToken>next</NextContinuationToken>`
)

// TestCutListing is given listings that end before their end: none is taken for all.
func TestCutListing(t *testing.T) {
	whole := fmt.Sprintf(page, true, next)
	for name, bad := range map[string]http.HandlerFunc{
		"no token": func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintf(w, page, true, "") },
		"half":     func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, whole[:len(whole)/2]) },
		"aborted": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(len(whole)))
			io.WriteString(w, whole[:len(whole)/2])
		},
		"error": func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "", http.StatusInsufficientStorage) },
	} {
		t.Run(name, func(t *testing.T) {
			s := fake(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Query().Get("continuation-token") == "" {
					io.WriteString(w, whole)
					return
				}
				bad(w, r)
			})
			got, err := s.List(t.Context(), "bucket", "", 10)
			if err == nil || got != nil {
				t.Errorf("%v, %v", got, err)
			}
			if down := new(*origin.UnavailableError); name != "no token" && !errors.As(err, down) {
				t.Errorf("it is not worth another try: %v", err)
			}
		})
	}
}

// TestListEnds ends while a listing comes: what has come is not taken for all.
func TestListEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s := fake(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("continuation-token") == "" {
			fmt.Fprintf(w, page, true, next)
			return
		}
		cancel()
		<-r.Context().Done()
	})
	if got, err := s.List(ctx, "bucket", "", 10); !errors.Is(err, context.Canceled) || got != nil {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := s.List(ctx, "bucket", "", 10); !errors.Is(err, context.Canceled) || got != nil {
		t.Errorf("after the end: %v, %v", got, err)
	}
}

// TestStale lists with keys that were good once.
func TestStale(t *testing.T) {
	s := fake(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusBadRequest)
		io.WriteString(w, `<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>`)
	})
	if _, err := s.List(t.Context(), "bucket", "", 10); !errors.Is(err, origin.ErrUnauthorized) || !strings.Contains(err.Error(), "has expired") {
		t.Errorf("%v", err)
	}
}

func TestAddresses(t *testing.T) {
	nobody(t)
	for _, endpoint := range []string{"store", "ftp://store", "https://store/path", "://"} {
		if _, err := s3.Open(t.Context(), s3.Config{Endpoint: endpoint}); err == nil {
			t.Errorf("%q is a store", endpoint)
		}
	}
	for address, want := range map[string][2]string{
		"s3://b/k": {"b", "k"}, "s3://b": {"b", ""}, "s3://b/a//b?c#d": {"b", "a//b?c#d"},
		"s3://": {}, "https://b/k": {}, "s3://user@b/k": {}, "s3://b:1/k": {},
	} {
		bucket, object, err := s3.Parse(address)
		if got := [2]string{bucket, object}; got != want || (err == nil) != (want[0] != "") {
			t.Errorf("%s: %q, %v", address, got, err)
		}
	}
	s := open(t, s3.Config{Endpoint: "https://store.example"}) // without keys
	u, err := s.Sign(t.Context(), "bucket", "odd name ü%20")
	if want := "https://store.example/bucket/odd%20name%20%C3%BC%2520"; err != nil || u.String() != want {
		t.Errorf("%v is not %s: %v", u, want, err)
	}
	if _, err := s.Sign(t.Context(), "bucket", ""); !errors.Is(err, s3.ErrAddress) {
		t.Errorf("no object: %v", err)
	}
}
