package job

import (
	"regexp"
	"slices"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/field"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/registry"
)

// Order is an image to be preheated, as people and programs ask for it.
type Order struct {
	Image     string   `json:"image,omitempty"`      // nginx:1.29
	URL       string   `json:"url,omitempty"`        // https://HOST/v2/…/manifests/…
	PlainHTTP bool     `json:"plain_http,omitempty"` // of the registry that image names
	Platforms []string `json:"platforms,omitempty"`  // linux/amd64
	Cluster   int64    `json:"cluster_id,omitempty"` // 0: the default one
	User      string   `json:"registry_user,omitempty"`
	Password  string   `json:"registry_password,omitempty"`
	Token     string   `json:"registry_token,omitempty"`
}

var platform = regexp.MustCompile(`^[a-z0-9]+/[a-z0-9]+(/[a-z0-9.]+)?$`)

const maxPlatforms = 20

// IsPlatform reports whether s looks like linux/amd64 or linux/arm/v7.
func IsPlatform(s string) bool { return platform.MatchString(s) }

// Request checks an order; what is wrong with it are field.Errors.
func (o Order) Request() (q Request, err error) {
	q = Request{Platforms: o.Platforms, Cluster: o.Cluster, Credential: registry.Credential{User: o.User, Password: o.Password}}
	wrong := field.Errors{}
	if o.URL == "" {
		q.Ref, err = registry.ParseName(o.Image, o.PlainHTTP)
		wrong.Check("image", err)
	} else {
		q.Ref, err = registry.ParseURL(o.URL)
		wrong.Check("url", err)
		if o.Image != "" {
			wrong["url"] = "must not be given together with image"
		}
	}
	if slices.ContainsFunc(o.Platforms, func(p string) bool { return !IsPlatform(p) }) || len(o.Platforms) > maxPlatforms {
		wrong["platforms"] = "must be like linux/amd64 or linux/arm/v7, 20 at most"
	}
	if o.Token != "" {
		q.Credential = registry.Credential{Authorization: "Bearer " + o.Token}
		if o.User != "" || o.Password != "" || !field.Printable(o.Token) {
			wrong["registry_token"] = "must be printable, and not be given together with a user and password"
		}
	}
	return q, wrong.Err()
}
