package s3

import (
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"
)

// LoginFor is how long a source of credentials may take.
const LoginFor time.Duration = loginFor

// Bounded sets a source of credentials that limit.
func Bounded(p credentials.Provider) credentials.Provider { return bounded{p} }
