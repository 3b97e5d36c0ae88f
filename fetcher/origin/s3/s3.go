// Package s3 gives objects of S3, and of stores that speak as it does, addresses that any
// HTTP client can read, signed for a while with credentials that stay here.
package s3

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
)

// Amazon is where buckets are if nobody says otherwise.
const Amazon = "https://s3.amazonaws.com"

// signedFor is how long an address may be used: as long as a large file may take.
const signedFor = 24 * time.Hour

// ErrAddress reports an address that is not one of an object.
var ErrAddress = errors.New("an object's address is s3://BUCKET/KEY")

// Config says how a store is reached. What it leaves out is taken from the environment,
// as other programs do: AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, AWS_REGION,
// AWS_ACCESS_KEY_ID and so on, AWS_PROFILE in ~/.aws/credentials.
type Config struct {
	Endpoint string // URL of the store
	Region   string // "": the store is asked
	Role     bool   // log in with the role that the cloud has given this machine
	Proxy    func(*http.Request) (*url.URL, error)
}

// Store is a client of one store.
type Store struct {
	client    *minio.Client
	anonymous bool
}

// Object is what a store lists.
type Object struct {
	Key  string
	Size int64
}

// Open returns a client. The store is not asked yet, but where a role gives the
// credentials, it is asked for them.
func Open(ctx context.Context, c Config) (*Store, error) {
	endpoint := c.Endpoint
	for _, name := range []string{"AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"} {
		if endpoint == "" {
			endpoint = os.Getenv(name)
		}
	}
	if endpoint == "" {
		endpoint = Amazon
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") != "" {
		return nil, fmt.Errorf("%q is not the address of a store, such as https://minio.example:9000", endpoint)
	}
	if c.Region == "" {
		c.Region = os.Getenv("AWS_REGION")
	}
	keys, anonymous, err := login(ctx, c.Role)
	if err != nil {
		return nil, err
	}
	s := &Store{anonymous: anonymous}
	transport, err := minio.DefaultTransport(u.Scheme == "https")
	if err != nil {
		return nil, err
	}
	transport.Proxy = c.Proxy
	s.client, err = minio.New(u.Host, &minio.Options{Creds: keys, Secure: u.Scheme == "https", Region: c.Region, Transport: transport, MaxRetries: 3})
	return s, err
}

// Parse reads an address such as s3://bucket/some/key.
func Parse(address string) (bucket, key string, err error) {
	rest, ok := strings.CutPrefix(address, "s3://")
	bucket, key, _ = strings.Cut(rest, "/")
	if !ok || bucket == "" || strings.ContainsAny(bucket, "?#@:") {
		return "", "", ErrAddress
	}
	return bucket, key, nil
}

// Sign returns an address of an object that can be read for a day, by whoever has it.
func (s *Store) Sign(ctx context.Context, bucket, key string) (*url.URL, error) {
	if key == "" {
		return nil, ErrAddress
	}
	if s.anonymous {
		u := *s.client.EndpointURL()
		u.Path = "/" + bucket + "/" + key
		return &u, nil
	}
	u, err := s.client.PresignedGetObject(ctx, bucket, key, signedFor, nil)
	if err != nil {
		return nil, fmt.Errorf("sign s3://%s/%s: %w", bucket, key, translated(err))
	}
	return u, nil
}

// List lists the objects whose keys begin so, and ends when there are more than most.
func (s *Store) List(ctx context.Context, bucket, prefix string, most int) ([]Object, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var all []Object
	for o := range s.client.ListObjectsIter(ctx, bucket, minio.ListObjectsOptions{Prefix: prefix, Recursive: true}) {
		if o.Err != nil {
			return nil, fmt.Errorf("list s3://%s/%s: %w", bucket, prefix, translated(o.Err))
		}
		if all = append(all, Object{o.Key, o.Size}); len(all) > most {
			break
		}
	}
	if err := ctx.Err(); err != nil { // the iterator then ends as if that were all
		return nil, fmt.Errorf("list s3://%s/%s: %w", bucket, prefix, err)
	}
	return all, nil
}

// translated makes an error of the store one of an origin's.
func translated(err error) error {
	var down *origin.UnavailableError
	r := minio.ToErrorResponse(err)
	switch {
	case errors.As(err, &down), errors.Is(err, origin.ErrUnauthorized): // it comes from login
		return err
	case errors.Is(err, context.Canceled):
		return err
	case r.StatusCode == http.StatusNotFound:
		return fmt.Errorf("%w: %w", origin.ErrNotFound, err)
	case r.StatusCode == http.StatusForbidden, r.StatusCode == http.StatusUnauthorized, slices.Contains(stale, r.Code):
		return fmt.Errorf("%w: %w", origin.ErrUnauthorized, err)
	case r.Code == "" || r.StatusCode >= http.StatusInternalServerError: // the network, or the store
		return &origin.UnavailableError{Err: err}
	}
	return err
}

// stale are the codes, with status 400, of credentials that were good once.
var stale = []string{"ExpiredToken", "ExpiredTokenException", "InvalidToken", "TokenRefreshRequired"}
