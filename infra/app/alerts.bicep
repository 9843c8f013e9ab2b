// What wakes somebody: log search rules over the events that the app says. docs/operations.md has a section for each.

param environmentName string
param location string
param tags object

@description('The Application Insights component whose traces are searched.')
param componentId string

param actionGroupId string

@description('The app\'s channels, as in CDC_CHANNELS: who says nothing at all is missed by name.')
param channels string

@description('Minutes without a run that is ok.')
param withoutOkRunMinutes int

@description('Seconds from commit to landed.')
param lagBoundSeconds int

@description('Where docs/operations.md is found; each alert names its section there.')
param operationsPage string

param isEnabled bool

// capture1, capture2, …: the names that the app gives its groups.
var groupTexts = filter(split(channels, ';'), text => !empty(trim(text)))
var groupNames = map(range(0, length(groupTexts)), index => '"capture${index + 1}"')
var channelTexts = filter(split(channels, [',', ';']), text => !empty(trim(text)))
var channelNames = map(channelTexts, text => '"${trim(text)}"')

var groupsTable = 'let groups = datatable(Group: string) [${join(groupNames, ', ')}];\n'
var channelsTable = 'let channels = datatable(Channel: string) [${join(channelNames, ', ')}];\n'
var positionOld = loadTextContent('queries/position-old.kql')

// Each is evaluated `every` so often over the last `window`; one alert for each value of its `dimensions`.
var rules = [
  {
    name: 'no-ok-run'
    title: 'No ok run'
    severity: 1
    description: 'No run of a channel group was ok for ${withoutOkRunMinutes} minutes: nothing may be captured. First: python -m cdc status'
    query: '${groupsTable}${loadTextContent('queries/no-ok-run.kql')}'
    dimensions: ['Group']
    every: 'PT5M'
    window: 'PT${withoutOkRunMinutes}M'
  }
  {
    name: 'run-failed'
    title: 'Run failed'
    severity: 1
    description: 'A run failed: a channel needs somebody, or nothing was captured. First: python -m cdc status shows its message.'
    query: loadTextContent('queries/run-failed.kql')
    dimensions: ['Group']
    every: 'PT5M'
    window: 'PT15M'
  }
  {
    name: 'channel-degraded-twice'
    title: 'Channel degraded twice'
    severity: 2
    description: 'A channel was degraded in two runs one after the other. First: python -m cdc status says what to look at.'
    query: loadTextContent('queries/channel-degraded-twice.kql')
    dimensions: ['Channel']
    every: 'PT15M'
    window: 'PT6H'
  }
  {
    name: 'lag-above-its-bound'
    title: 'Lag above its bound'
    severity: 2
    description: 'Half of a channel\'s events took longer than ${lagBoundSeconds} s from commit to landed. First: see whether it is catching up.'
    query: 'let lagBoundSeconds = ${lagBoundSeconds};\n${loadTextContent('queries/lag-above-its-bound.kql')}'
    dimensions: ['Channel']
    every: 'PT15M'
    window: 'PT30M'
  }
  {
    name: 'position-older-than-24-h'
    title: 'Position older than 24 h'
    severity: 2
    description: 'A channel is a third of the way to losing events: 24 of 72 hours. First: python -m cdc status says how many hours are left.'
    query: '${channelsTable}let olderThanHours = 24;\n${positionOld}'
    dimensions: ['Channel']
    every: 'PT15M'
    window: 'P2D'
  }
  {
    name: 'position-older-than-48-h'
    title: 'Position older than 48 h'
    severity: 0
    description: 'A channel is two thirds of the way to losing events: 48 of 72 hours. Get it going now. First: python -m cdc status'
    query: '${channelsTable}let olderThanHours = 48;\n${positionOld}'
    dimensions: ['Channel']
    every: 'PT15M'
    window: 'P2D'
  }
  {
    name: 'gap-opened'
    title: 'Gap opened'
    severity: 1
    description: 'Events of a channel may be missing for good, and a record says which. First: python -m cdc gaps list'
    query: loadTextContent('queries/gap-opened.kql')
    dimensions: ['Channel', 'Generation']
    every: 'PT15M'
    window: 'PT1H'
  }
  {
    name: 'quarantine-used'
    title: 'Quarantine used'
    severity: 2
    description: 'A message could not be placed in a log and was put aside, whole. First: python -m cdc quarantine list'
    query: loadTextContent('queries/quarantine-used.kql')
    dimensions: ['Channel']
    every: 'PT15M'
    window: 'PT1H'
  }
  {
    name: 'allocation-nearly-used-up'
    title: 'Allocation nearly used up'
    severity: 2
    description: 'The org\'s event deliveries of 24 hours are nearly used up; then nobody gets any. First: find out who else subscribes.'
    query: loadTextContent('queries/allocation-nearly-used-up.kql')
    dimensions: []
    every: 'PT15M'
    window: 'PT2H'
  }
  {
    name: 'silent-channel'
    title: 'Silent channel'
    severity: 1
    description: 'A channel delivers nothing while the org\'s records change. First: one long run of its group (CDC_RUN_SECONDS).'
    query: loadTextContent('queries/silent-channel.kql')
    dimensions: ['Channel']
    every: 'PT15M'
    window: 'PT1H'
  }
]

// An alert is told once, when it fires, and once more when it is over, after two or three evaluations that find nothing.
// In between it is quiet, so none is muted (Azure Monitor, "Stateful alerts").
resource alerts 'Microsoft.Insights/scheduledQueryRules@2023-12-01' = [for rule in rules: {
  name: 'alert-cdc-${rule.name}-${environmentName}'
  location: location
  tags: tags
  kind: 'LogAlert'
  properties: {
    displayName: '${rule.title} (cdc ${environmentName})'
    description: '${rule.description} ${operationsPage}#${rule.name}'
    severity: rule.severity
    enabled: isEnabled
    scopes: [componentId]
    evaluationFrequency: rule.every
    windowSize: rule.window
    autoMitigate: true
    skipQueryValidation: true // the component of a new environment has no traces yet
    criteria: {
      allOf: [
        {
          query: rule.query
          timeAggregation: 'Count'
          operator: 'GreaterThan'
          threshold: 0
          dimensions: map(rule.dimensions, name => { name: name, operator: 'Include', values: ['*'] })
          failingPeriods: {
            numberOfEvaluationPeriods: 1
            minFailingPeriodsToAlert: 1
          }
        }
      ]
    }
    actions: {
      actionGroups: [actionGroupId]
      customProperties: {
        environment: environmentName
        operations: '${operationsPage}#${rule.name}'
      }
    }
  }
}]
