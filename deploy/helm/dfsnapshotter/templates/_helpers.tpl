{{- define "df.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "df.select" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "df.labels" -}}
{{ include "df.select" . }}
app.kubernetes.io/version: {{ .Values.image.tag | default .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- /* image, of a dict of root and name */}}
{{- define "df.image" -}}
{{ .root.Values.image.registry }}{{ .name }}:{{ .root.Values.image.tag | default .root.Chart.AppVersion }}
{{- end }}

{{- define "df.placement" -}}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "df.locked" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "df.pod-locked" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- /* a claim of a StatefulSet or alone */}}
{{- define "df.claim" -}}
accessModes: [ReadWriteOnce]
{{- with .storageClass }}
storageClassName: {{ . }}
{{- end }}
resources: {requests: {storage: {{ .size }}}}
{{- end }}

{{- /* probes, of a dict of program and config */}}
{{- define "df.probes" -}}
startupProbe: {exec: {command: [/usr/local/bin/{{ .program }}, health, --config, {{ .config }}]}, periodSeconds: 2, failureThreshold: 60, timeoutSeconds: 6}
readinessProbe: {exec: {command: [/usr/local/bin/{{ .program }}, health, --config, {{ .config }}]}, periodSeconds: 10, timeoutSeconds: 6}
{{- end }}

{{- define "df.postgres" -}}
{{- if or .Values.manager.database.url .Values.manager.database.existingSecret }}yes{{ end }}
{{- end }}

{{- define "df.join" -}}
- name: join
  secret: {secretName: {{ include "df.name" . }}-join, optional: true}
{{- end }}
