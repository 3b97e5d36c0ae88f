package doctor

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// renewed is how long before its end a certificate should have been renewed.
const renewed = 24 * time.Hour

// checkCluster looks at schedulers, manager and certificate.
func (d *Doctor) checkCluster() {
	c := d.status.Cluster
	if c == nil {
		d.found("cluster", OK, "none: everything comes from registries", "")
		return
	}
	if c.Manager != "" {
		d.checkManager()
	}
	var up, down []string
	for _, name := range slices.Sorted(maps.Keys(c.Schedulers)) {
		if c.Schedulers[name] {
			up = append(up, name)
		} else {
			down = append(down, name)
		}
	}
	fix := "Can this host reach them? Do certificates fit (the log of the agent says)? Is the name right in peer.schedulers?"
	switch {
	case len(up)+len(down) == 0:
		d.found("scheduler", Failed, "no scheduler is known", "The manager knows none in this host's cluster: start dfscheduler with --config naming the same manager.")
	case len(up) == 0:
		d.found("scheduler", Failed, "none can be reached: "+strings.Join(down, ", ")+"; hosts that are not known yet give nothing", fix)
	case len(down) > 0:
		d.found("scheduler", Warning, strings.Join(down, ", ")+" cannot be reached; "+strings.Join(up, ", ")+" can", fix)
	default:
		d.found("scheduler", OK, "reachable: "+strings.Join(up, ", "), "")
	}
	d.checkCertificate()
}

func (d *Doctor) checkManager() {
	c := d.status.Cluster
	switch {
	case c.Linked:
		d.found("manager", OK, c.Manager+" can be reached", "")
	case c.Expires.IsZero():
		d.found("manager", Failed, "this host has not joined the cluster of "+c.Manager,
			"Put a join token (dfmanager token create) into the file that peer.join_token names; the agent tries on by itself, and its log says what the manager answers.")
	default:
		d.found("manager", Warning, c.Manager+" cannot be reached: this host goes on with what it said last", "Does dfmanager run? Does a firewall let its gRPC port through?")
	}
}

func (d *Doctor) checkCertificate() {
	c := d.status.Cluster
	left := time.Until(c.Expires)
	day := c.Expires.Local().Format(time.DateTime)
	switch {
	case !c.TLS:
		d.found("certificate", Warning, "none: hosts speak plain text, and private images and tokens are not shared", "Have a manager give certificates (peer.manager), or name files in [tls].")
	case c.Expires.IsZero():
		d.found("certificate", Failed, "there is none yet", "See what is said of the manager.")
	case left <= 0:
		d.found("certificate", Failed, "it was good until "+day, "Look at the clock of this host, at the manager, or at the files that [tls] names: they are read again when they change.")
	case left < renewed:
		d.found("certificate", Warning, fmt.Sprintf("it is good until %s, for %s", day, left.Round(time.Minute)), "A manager renews it by itself, if it can be reached; files of [tls] are yours to replace.")
	default:
		d.found("certificate", OK, "good until "+day, "")
	}
}
