package web

import (
	"context"
	"errors"
	"net/http"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/job"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/registry"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/sight"
	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

type found struct {
	Digest string       `json:"digest"` // of the manifest
	Size   int64        `json:"size"`
	Blobs  []foundBlob  `json:"blobs"`
	Hosts  []foundShare `json:"hosts"`  // who has most first
	Unseen bool         `json:"unseen"` // some scheduler could not be asked: there may be more
}

type foundBlob struct {
	Digest string `json:"digest"`
	Kind   string `json:"kind"`
	Size   int64  `json:"size"`
	Copies int    `json:"copies"` // hosts that have all of it
}

type foundShare struct {
	Host    string `json:"host"`
	Address string `json:"address"`
	Seed    bool   `json:"seed"`
	Bytes   int64  `json:"bytes"` // about, where it has a part of a blob
	Whole   int    `json:"whole_blobs"`
}

// findImage resolves an image and returns where its blobs are.
func (s *Server) findImage(c *call) (any, error) {
	in, err := body[job.Order](c)
	if err != nil {
		return nil, err
	}
	q, err := in.Request()
	if err == nil && q.Blob != "" {
		err = invalid(map[string]string{"blob": "is shown by /api/v1/clusters/{id}/blobs/{digest}"})
	}
	if err != nil {
		return nil, err
	}
	image, at, err := s.where(c.Context(), q)
	if err != nil {
		return nil, err
	}
	out := found{Digest: string(image.Digest), Blobs: []foundBlob{}, Hosts: []foundShare{}, Unseen: at.Unseen}
	for i, b := range image.Blobs {
		out.Blobs = append(out.Blobs, foundBlob{string(b.Digest), b.Kind, b.Size, at.Copies[i]})
		out.Size += b.Size
	}
	for _, h := range at.Hosts {
		out.Hosts = append(out.Hosts, foundShare{h.ID, h.Addr, h.Seed, h.Bytes, h.Whole})
	}
	return out, nil
}

// where asks the registry what an image is, and the schedulers of its cluster who has
// that.
func (s *Server) where(ctx context.Context, q job.Request) (registry.Image, sight.Found, error) {
	names, err := s.schedulers(ctx, q.Cluster)
	if err != nil {
		return registry.Image{}, sight.Found{}, err
	}
	image, err := s.Jobs.Resolve(ctx, q)
	if err != nil {
		return image, sight.Found{}, unresolved(err)
	}
	blobs := make([]p2p.Blob, len(image.Blobs))
	for i, b := range image.Blobs {
		blobs[i] = b.Blob
	}
	at, err := s.Sight.Find(ctx, q.Cluster, names, blobs)
	return image, at, err
}

// unresolved says what a registry did not give.
func unresolved(err error) error {
	for _, known := range []struct {
		is     error
		status int
		code   string
	}{
		{registry.ErrNotFound, http.StatusNotFound, "no_such_image"}, {registry.ErrRefused, http.StatusBadRequest, "registry_refuses"},
		{registry.ErrInvalid, http.StatusBadRequest, "no_image"}, {registry.ErrUnavailable, http.StatusBadGateway, "registry_away"},
		{job.ErrFile, http.StatusBadRequest, "no_file"}, {job.ErrFileAway, http.StatusBadGateway, "server_away"},
	} {
		if errors.Is(err, known.is) {
			return &Error{Status: known.status, Code: known.code, Message: err.Error()}
		}
	}
	return err
}
