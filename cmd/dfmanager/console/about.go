package console

import (
	"net"
	"net/http"
	"strings"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/web"
)

func (c *Console) about(v *web.Visit) error {
	return c.show(v, http.StatusOK, frame{Title: "About", Page: "about", Body: struct {
		Facts    []Fact
		Database string
	}{c.Facts, c.Store.Engine()}})
}

// howTo is what is to be pasted into registries.
type howTo struct {
	Endpoint string // of this manager, as the visitor reaches it
	Secure   bool
	Local    bool // nobody else reaches it by that
}

func (c *Console) harbor(v *web.Visit) error {
	h := howTo{Endpoint: "http://" + v.Host, Secure: v.Secure}
	if v.Secure {
		h.Endpoint = "https://" + v.Host
	}
	host := v.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	h.Local = host == "localhost" || ip != nil && ip.IsLoopback()
	return c.show(v, http.StatusOK, frame{Title: "Harbor", Page: "harbor", Body: h})
}
