// One storage account without keys, its containers, and the rule that cools old blobs. Used twice: for the host, for data.

param name string
param location string
param tags object
param redundancy string

@description('With a hierarchical namespace (Data Lake Storage Gen2). It cannot be changed once the account exists.')
param isHierarchical bool = false

param containerNames array

@description('Prefixes, container first, of the blobs that are cooled; never one that the checkpoints container matches.')
param coolPrefixes array = []

@description('Days after its last write until a blob under coolPrefixes is cooled; 0 leaves all in the hot tier.')
param coolAfterDays int = 0

@description('Days for which deleted and overwritten blobs can be restored.')
param restoreDays int

@description('Resource id of the subnet that is admitted; empty admits every network.')
param subnetId string

@description('IPv4 addresses that are admitted besides the subnet.')
param allowedIpAddresses array

@allowed(['Enabled', 'Disabled'])
param publicNetworkAccess string

param workspaceId string

@description('Which requests are logged: StorageRead, StorageWrite, StorageDelete.')
param loggedRequests array

resource account 'Microsoft.Storage/storageAccounts@2025-06-01' = {
  name: name
  location: location
  tags: tags
  kind: 'StorageV2'
  sku: {
    name: redundancy
  }
  properties: {
    accessTier: 'Hot'
    allowBlobPublicAccess: false
    allowCrossTenantReplication: false
    allowSharedKeyAccess: false
    defaultToOAuthAuthentication: true
    isHnsEnabled: isHierarchical
    isLocalUserEnabled: false
    minimumTlsVersion: 'TLS1_2'
    publicNetworkAccess: publicNetworkAccess
    supportsHttpsTrafficOnly: true
    networkAcls: {
      bypass: 'AzureServices'
      defaultAction: empty(subnetId) ? 'Allow' : 'Deny'
      virtualNetworkRules: empty(subnetId) ? [] : [{ id: subnetId, action: 'Allow' }]
      ipRules: [for address in allowedIpAddresses: { value: address, action: 'Allow' }]
    }
  }
}

resource blobs 'Microsoft.Storage/storageAccounts/blobServices@2025-06-01' = {
  parent: account
  name: 'default'
  properties: {
    deleteRetentionPolicy: {
      enabled: true
      days: restoreDays
    }
    containerDeleteRetentionPolicy: {
      enabled: true
      days: restoreDays
    }
  }
}

resource containers 'Microsoft.Storage/storageAccounts/blobServices/containers@2025-06-01' = [
  for container in containerNames: {
    parent: blobs
    name: container
    properties: {
      publicAccess: 'None'
    }
  }
]

// Cooling alone: what may ever be deleted is a decision of whoever reads the log (docs/storage-log.md), not of this file.
resource lifecycle 'Microsoft.Storage/storageAccounts/managementPolicies@2025-06-01' = if (coolAfterDays > 0) {
  parent: account
  name: 'default'
  properties: {
    policy: {
      rules: [
        {
          name: 'cool-old-segments'
          enabled: true
          type: 'Lifecycle'
          definition: {
            filters: {
              blobTypes: ['blockBlob']
              prefixMatch: coolPrefixes
            }
            actions: {
              baseBlob: {
                tierToCool: {
                  daysAfterModificationGreaterThan: coolAfterDays
                }
              }
            }
          }
        }
      ]
    }
  }
}

resource diagnostics 'Microsoft.Insights/diagnosticSettings@2021-05-01-preview' = {
  scope: blobs
  name: 'to-workspace'
  properties: {
    workspaceId: workspaceId
    logs: [for category in loggedRequests: { category: category, enabled: true }]
  }
}

output name string = account.name
output blobServiceUri string = account.properties.primaryEndpoints.blob
