package store

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// Image is one that was preheated, all of it.
type Image struct {
	URL    string // of its manifest
	Digest string // of that, then
	Job    int64  // the last one that succeeded
	At     time.Time
	Blobs  int
	Size   int64 // of all blobs
}

// ofLayers holds for jobs whose scope names layers, as it is written.
const ofLayers = `scope LIKE '%"layers":%'`

// Images returns a page of the images that were preheated, the latest first. Jobs of
// chosen layers say nothing of an image.
func (db *DB) Images(ctx context.Context, p Page) ([]Image, error) {
	return list(ctx, db, func(s scanner) (i Image, err error) {
		var at int64
		err = s.Scan(&i.Job, &i.URL, &i.Digest, &at, &i.Blobs, &i.Size)
		i.At = fromMillis(at)
		return i, err
	}, `SELECT jobs.id, url, jobs.digest, finished, COUNT(job_blobs.digest), CAST(COALESCE(SUM(size), 0) AS BIGINT)
		FROM jobs LEFT JOIN job_blobs ON job_blobs.job_id = jobs.id
		WHERE jobs.id IN (SELECT MAX(id) FROM jobs WHERE state = $1 AND NOT `+ofLayers+` GROUP BY url) AND jobs.kind = 'image' AND jobs.id < $2
		GROUP BY jobs.id, url, jobs.digest, finished ORDER BY jobs.id DESC LIMIT $3`, Succeeded, p.before(), p.Limit)
}

// maxDigests is of how many blobs the images are looked for at once.
const maxDigests = 500

// ImagesOf returns of which images, by the URLs of their manifests, jobs have found
// these blobs to be.
func (db *DB) ImagesOf(ctx context.Context, digests []string) (map[string][]string, error) {
	digests = digests[:min(len(digests), maxDigests)]
	if len(digests) == 0 {
		return nil, nil
	}
	marks, args := make([]string, len(digests)), make([]any, len(digests))
	for i, d := range digests {
		marks[i], args[i] = fmt.Sprintf("$%d", i+1), d
	}
	type pair struct{ digest, url string }
	all, err := list(ctx, db, func(s scanner) (p pair, err error) { return p, s.Scan(&p.digest, &p.url) },
		"SELECT DISTINCT job_blobs.digest, url FROM job_blobs JOIN jobs ON jobs.id = job_id WHERE jobs.kind = 'image' AND job_blobs.digest IN ("+strings.Join(marks, ", ")+") ORDER BY url", args...)
	byDigest := map[string][]string{}
	for _, p := range all {
		byDigest[p.digest] = append(byDigest[p.digest], p.url)
	}
	return byDigest, err
}
