package job

import (
	"regexp"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/field"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/registry"
	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// Order is an image or file to be preheated, or an image to be removed, as people and programs ask for it.
type Order struct {
	Kind      string   `json:"kind,omitempty"`       // image, which is usual, file or remove
	Blob      string   `json:"blob,omitempty"`       // digest of what is removed, in place of an image
	Image     string   `json:"image,omitempty"`      // nginx:1.29
	URL       string   `json:"url,omitempty"`        // https://HOST/v2/…/manifests/…, or a file's
	PlainHTTP bool     `json:"plain_http,omitempty"` // of the registry that image names
	Platforms []string `json:"platforms,omitempty"`  // linux/amd64
	Cluster   int64    `json:"cluster_id,omitempty"` // 0: the default one
	User      string   `json:"registry_user,omitempty"`
	Password  string   `json:"registry_password,omitempty"`
	Token     string   `json:"registry_token,omitempty"`

	// Of a file, as dfget has them: they are part of its name.
	Digest  string            `json:"digest,omitempty"`
	Tag     string            `json:"tag,omitempty"`
	Filter  []string          `json:"filter,omitempty"`
	Headers map[string]string `json:"headers,omitempty"`

	Scope
}

// blob notes what an order says that is about a blob.
func (o Order) blob(q *Request, wrong field.Errors) {
	q.Blob = digest.Digest(o.Blob)
	wrong.Check("blob", p2p.ValidateDigest(q.Blob))
	if o.Image != "" || o.URL != "" {
		wrong["blob"] = "must not be given together with an image"
	} else if !q.Remove {
		wrong["blob"] = "can only be removed"
	}
}

var platform = regexp.MustCompile(`^[a-z0-9]+/[a-z0-9]+(/[a-z0-9.]+)?$`)

const maxPlatforms = 20

// IsPlatform reports whether s looks like linux/amd64 or linux/arm/v7.
func IsPlatform(s string) bool { return platform.MatchString(s) }

// Request checks an order; what is wrong with it are field.Errors.
func (o Order) Request() (q Request, err error) {
	q = Request{Platforms: o.Platforms, Cluster: o.Cluster, Scope: o.Scope, Credential: registry.Credential{User: o.User, Password: o.Password}}
	wrong := field.Errors{}
	q.Remove = o.Kind == Remove
	switch {
	case o.Kind == File:
		o.file(&q, wrong)
	case o.Blob != "":
		o.blob(&q, wrong)
	case o.URL == "":
		q.Ref, err = registry.ParseName(o.Image, o.PlainHTTP)
		wrong.Check("image", err)
	default:
		q.Ref, err = registry.ParseURL(o.URL)
		wrong.Check("url", err)
		if o.Image != "" {
			wrong["url"] = "must not be given together with image"
		}
	}
	if slices.ContainsFunc(o.Platforms, func(p string) bool { return !IsPlatform(p) }) || len(o.Platforms) > maxPlatforms {
		wrong["platforms"] = "must be like linux/amd64 or linux/arm/v7, 20 at most"
	}
	o.Check(wrong)
	if o.Kind != File && (o.Digest != "" || o.Tag != "" || len(o.Filter) > 0 || len(o.Headers) > 0) {
		wrong["kind"] = "must be file, with digest, tag, filter or headers"
	}
	if (o.Kind == File || q.Remove) && len(o.Layers) > 0 {
		wrong["layers"] = "go with preheating an image"
	}
	switch {
	case o.Kind != "" && o.Kind != Image && o.Kind != File && o.Kind != Remove:
		wrong["kind"] = "must be image, file or remove"
	case q.Remove && (o.Scope.Kind != "" || o.Percent > 0 || len(o.Hosts) > 0):
		wrong["scope"] = "goes with preheating: what is removed goes everywhere"
	}
	if o.Token != "" && o.Kind != File {
		q.Credential = registry.Credential{Authorization: "Bearer " + o.Token}
		if o.User != "" || o.Password != "" || !field.Printable(o.Token) {
			wrong["registry_token"] = "must be printable, and not be given together with a user and password"
		}
	}
	return q, wrong.Err()
}
