package console

import (
	"strings"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/job"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/web"
)

// fileForm is what is typed of a file, but for secrets.
type fileForm struct{ URL, Digest, Tag, Filter string }

func typedFile(v *web.Visit) *fileForm {
	text := func(name string) string { return strings.TrimSpace(v.PostFormValue(name)) }
	return &fileForm{URL: text("url"), Digest: text("digest"), Tag: text("tag"), Filter: text("filter")}
}

// order is what is to be done with it.
func (f *fileForm) order(v *web.Visit, cluster int64) job.Order {
	o := job.Order{Kind: job.File, Cluster: cluster, URL: f.URL, Digest: f.Digest, Tag: f.Tag, Filter: typed(f.Filter), Headers: map[string]string{}}
	for line := range strings.Lines(v.PostFormValue("headers")) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		name, value, _ := strings.Cut(line, ":") // a name without a value is sent so
		o.Headers[strings.TrimSpace(name)] = strings.TrimSpace(value)
	}
	return o
}
