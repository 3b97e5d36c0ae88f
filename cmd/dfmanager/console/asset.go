package console

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"net/http"
	"path"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/web"
)

// htmx.min.js and hx-sse.min.js are dist/htmx.min.js and dist/ext/hx-sse.min.js
// of the npm package htmx.org 4.0.1, whose licence (0BSD) is htmx.LICENSE. A
// test holds their hashes.
//
//go:embed assets
var assets embed.FS

type assetFile struct {
	kind, version string
	data          []byte
}

// byName are the files that pages need, by name.
var byName = load()

func load() map[string]assetFile {
	all := map[string]assetFile{}
	kinds := map[string]string{".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml", ".LICENSE": "text/plain; charset=utf-8"}
	entries, err := assets.ReadDir("assets")
	if err != nil {
		panic(err) // they are in the program
	}
	for _, e := range entries {
		data, err := assets.ReadFile("assets/" + e.Name())
		if err != nil {
			panic(err)
		}
		sum := sha256.Sum256(data)
		all[e.Name()] = assetFile{kinds[path.Ext(e.Name())], hex.EncodeToString(sum[:8]), data}
	}
	return all
}

// assetURL is where a file is; another one when its content is.
func assetURL(name string) string { return "/assets/" + name + "?v=" + byName[name].version }

func asset(v *web.Visit) error {
	f, ok := byName[v.PathValue("name")]
	if !ok {
		return store.ErrNotFound
	}
	h := v.W.Header()
	h.Set("Content-Type", f.kind)
	h.Set("ETag", `"`+f.version+`"`)
	h.Set("Cache-Control", "no-cache")
	if v.URL.Query().Get("v") == f.version {
		h.Set("Cache-Control", "public, max-age=31536000, immutable")
	}
	http.ServeContent(v.W, v.Request, "", time.Time{}, bytes.NewReader(f.data))
	return nil
}
