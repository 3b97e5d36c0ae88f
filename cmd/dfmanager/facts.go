package main

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/console"
)

// facts is what the console shows of the configuration. Nothing of it is
// secret; the database's URL is left out, since it may hold a password.
func (c Config) facts() []console.Fact {
	list := func(all []string, none string) string {
		if len(all) == 0 {
			return none
		}
		return strings.Join(all, ", ")
	}
	span := func(d Duration) string {
		text, _ := d.MarshalText() // never fails
		return string(text)
	}
	tls := "no: plain text on this machine only"
	switch {
	case c.Web.Cert != "":
		tls = "yes, with the certificate in " + c.Web.Cert
	case len(c.Web.Proxies) > 0:
		tls = "by the proxies at " + strings.Join(c.Web.Proxies, ", ")
	case c.Web.Insecure:
		tls = "no: plain text on any address"
	}
	members := "no: plain text, and registry tokens are not passed on to seeds"
	switch {
	case len(c.Cluster.Schedulers) == 0:
		members = "yes, with certificates of the cluster's CA"
	case c.TLS.Cert != "":
		members = "yes, with the certificate in " + c.TLS.Cert
	}
	return []console.Fact{
		{Name: "Schedulers", Value: list(c.Cluster.Schedulers, "those that have joined the default cluster"), Key: "cluster.schedulers"},
		{Name: "TLS within the cluster", Value: members, Key: "tls"},
		{Name: "TLS to browsers and registries", Value: tls, Key: "web.cert"},
		{Name: "Requests per second and address", Value: fmt.Sprint(c.Web.Rate), Key: "web.rate"},
		{Name: "A sign-in lasts", Value: span(c.Auth.Session), Key: "auth.session"},
		{Name: "OpenID Connect provider", Value: cmp.Or(c.Auth.OIDC.Issuer, "none"), Key: "auth.oidc.issuer"},
		{Name: "Jobs at a time", Value: fmt.Sprint(c.Jobs.Concurrent), Key: "jobs.concurrent"},
		{Name: "A job is tried for", Value: span(c.Jobs.Timeout), Key: "jobs.timeout"},
		{Name: "Jobs are kept for", Value: span(c.Jobs.Keep), Key: "jobs.keep"},
		{Name: "Platforms of images for several", Value: list(c.Jobs.Platforms, "all"), Key: "jobs.platforms"},
		{Name: "Registries need no credentials at", Value: list(c.Registries.OpenTo, "no address"), Key: "registries.open_to"},
		{Name: "CAs of registries and file servers", Value: list(strings.Fields(c.Registries.CA), "the system's only"), Key: "registries.ca"},
	}
}
