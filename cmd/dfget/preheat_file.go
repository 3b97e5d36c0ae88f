package main

import (
	"fmt"
	"net/url"
	"path"
	"strings"
)

// fileOptions are those of a file.
type fileOptions struct {
	Digest  string            `json:"digest,omitempty"`
	Tag     string            `json:"tag,omitempty"`
	Filter  []string          `json:"filter,omitempty"`
	Headers map[string]string `json:"headers,omitempty"`
}

// what says what is meant: an image, or a file.
func (p *preheat) what() error {
	if !strings.HasPrefix(p.name, "http://") && !strings.HasPrefix(p.name, "https://") {
		p.Image = p.name
	} else {
		p.Kind, p.URL = "file", p.name
	}
	h, err := parseHeaders(p.headers)
	for name, values := range h {
		if len(values) > 1 {
			return fmt.Errorf("--header: %s is given twice", name)
		}
		if p.Headers == nil {
			p.Headers = map[string]string{}
		}
		p.Headers[name] = values[0]
	}
	return err
}

// shown is its name for people: of a file the last part of its address, without what
// may be secret.
func (p *preheat) shown() string {
	if p.URL == "" {
		return p.Image
	}
	u, err := url.Parse(p.URL)
	if err != nil || path.Base(u.Path) == "/" || u.Path == "" {
		return "the file"
	}
	return path.Base(u.Path)
}
