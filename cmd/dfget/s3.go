package main

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"github.com/spf13/cobra"
	"golang.org/x/net/http/httpproxy"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin/s3"
)

// s3Flags say how object stores are reached.
type s3Flags struct {
	endpoint, region string
	role             bool
	store            func(context.Context) (*s3.Store, error) // opens it once, for all files
}

func (f *s3Flags) add(cmd *cobra.Command) {
	f.store = once(f.open)
	cmd.Flags().StringVar(&f.endpoint, "s3-endpoint", "", "URL of the store that has s3:// objects (default: AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, Amazon's)")
	cmd.Flags().StringVar(&f.region, "s3-region", "", "region of the bucket (default: AWS_REGION, or the store is asked)")
	cmd.Flags().BoolVar(&f.role, "s3-role", false, "log in to the store with the role that the cloud has given this machine, if there are no other credentials")
}

// once returns what open does until that has worked, and then always the same store.
func once(open func(context.Context) (*s3.Store, error)) func(context.Context) (*s3.Store, error) {
	var mu sync.Mutex
	var store *s3.Store // guarded by mu
	return func(ctx context.Context) (_ *s3.Store, err error) {
		mu.Lock()
		defer mu.Unlock()
		if store == nil {
			store, err = open(ctx)
		}
		return store, err
	}
}

func (f *s3Flags) open(ctx context.Context) (*s3.Store, error) {
	proxy := httpproxy.FromEnvironment().ProxyFunc()
	return s3.Open(ctx, s3.Config{
		Endpoint: f.endpoint, Region: f.region, Role: f.role,
		Proxy: func(r *http.Request) (*url.URL, error) { return proxy(r.URL) },
	})
}

// sign puts the place of an s3:// URL one that anybody can read for a while: credentials
// stay here, and the file's name in the cluster does not depend on them.
func (d *download) sign(ctx context.Context) error {
	if !strings.HasPrefix(d.URL, "s3://") {
		return nil
	}
	bucket, key, err := s3.Parse(d.URL)
	if err != nil {
		return err
	}
	store, err := d.s3.store(ctx)
	if err != nil {
		return err
	}
	u, err := store.Sign(ctx, bucket, key)
	if err != nil {
		return err
	}
	d.given, d.URL = d.URL, u.String()
	return nil
}
